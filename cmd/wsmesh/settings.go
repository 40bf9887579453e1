package main

import (
	"github.com/spf13/cobra"

	"github.com/wsmesh/wsmesh/mesh"
)

// settingsFlags are the flags of what a tenant says of a workspace.
type settingsFlags struct {
	mesh.Settings
	labels []string
}

func (s *settingsFlags) bind(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&s.Net, "net", "", "most `NETWORK` of its commands: none, full or allow:HOST,… (default as the mesh is set)")
	f.StringVar(&s.Zone, "zone", "", "have it on a node in `ZONE` only")
	f.StringArrayVar(&s.labels, "label", nil, "have it on a node with `NAME=VALUE` only; repeatable")
	f.StringVar(&s.Isolation, "isolation", "", "have its commands isolated at least as `DRIVER` does: software or bwrap")
}

// settings checks and returns what the flags say.
func (s *settingsFlags) settings(cmd *cobra.Command) (mesh.Settings, error) {
	var err error
	if err = checkNet(cmd, s.Net); err != nil {
		return s.Settings, err
	}
	if s.Labels, err = labelsOf(cmd, s.labels); err != nil {
		return s.Settings, err
	}
	if err := s.Check(); err != nil {
		return s.Settings, wrongUse(cmd, "%s", errorText(err))
	}
	return s.Settings, nil
}

// labelsOf reads --label flags.
func labelsOf(cmd *cobra.Command, flags []string) (map[string]string, error) {
	if len(flags) == 0 {
		return nil, nil
	}
	labels := map[string]string{}
	for _, s := range flags {
		name, value, err := mesh.ParseLabel(s)
		if err != nil {
			return nil, wrongUse(cmd, "--label: %s", errorText(err))
		}
		labels[name] = value
	}
	return labels, nil
}

package main

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/wsmesh/wsmesh/mesh"
)

// settingsFlags are the flags of what a tenant says of a workspace.
type settingsFlags struct {
	mesh.Settings
	labels, ephemeral []string
}

func (s *settingsFlags) bind(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&s.Net, "net", "", "most `NETWORK` of its commands: none, full or allow:HOST,… (default as the mesh is set)")
	f.StringVar(&s.Zone, "zone", "", "have it on a node in `ZONE` only")
	f.StringArrayVar(&s.labels, "label", nil, "have it on a node with `NAME=VALUE` only; repeatable")
	f.StringVar(&s.Isolation, "isolation", "", "have its commands isolated at least as `DRIVER` does: software or bwrap")
	f.StringVar(&s.Durability, "durability", "", "what the end of a command that names nothing waits for: sync, async or none (default sync)")
	f.StringArrayVar(&s.ephemeral, "ephemeral", nil, "do not keep what commands change in `DIR`, at any depth; repeatable, besides .cache and the like")
	f.StringVar(&s.Idle, "idle", "", "`WHAT` becomes of it when nobody uses it: close, delete, or keep=7d, which removes it later (default close)")
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
	for _, dir := range s.ephemeral {
		s.Ephemeral = append(s.Ephemeral, mesh.Path(strings.TrimSuffix(dir, "/")))
	}
	if err := s.Check(); err != nil {
		return s.Settings, wrongUse(cmd, "%s", errorText(err))
	}
	return s.Settings, nil
}

// change is what the flags that are given change. An empty one takes a setting away.
func (s *settingsFlags) change(cmd *cobra.Command) (c mesh.SettingsChange, err error) {
	given := cmd.Flags().Changed
	for _, list := range []*[]string{&s.labels, &s.ephemeral} {
		if len(*list) == 1 && (*list)[0] == "" {
			*list = nil
		}
	}
	now, err := s.settings(cmd)
	if err != nil {
		return c, err
	}
	some := false
	for name, set := range map[string]func(){
		"net":        func() { c.Net = &now.Net },
		"zone":       func() { c.Zone = &now.Zone },
		"label":      func() { c.Labels = now.Labels },
		"isolation":  func() { c.Isolation = &now.Isolation },
		"durability": func() { c.Durability = &now.Durability },
		"ephemeral":  func() { c.Ephemeral = append([]mesh.Path{}, now.Ephemeral...) },
		"idle":       func() { c.Idle = &now.Idle },
	} {
		if given(name) {
			set()
			some = true
		}
	}
	if !some {
		return c, wrongUse(cmd, "no setting is given")
	}
	return c, nil
}

// labelsOf reads --label flags.
func labelsOf(cmd *cobra.Command, flags []string) (map[string]string, error) {
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

package main

import (
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
)

type nodeFlags struct {
	nats, creds, data, name string
	isolation, capture, net string
	zone                    string
	labelFlags              []string
	labels                  map[string]string
	netExcept               []string
	mirror                  mirrorFlags
	grace                   time.Duration
	logFormat, logLevel     string
}

func newNode() *cobra.Command {
	var n nodeFlags
	cmd := &cobra.Command{
		Use:   "node --nats URL,URL --creds FILE --data DIR",
		Short: "Host workspaces of a mesh on this machine, in the foreground",
		Long: "Host workspaces of a mesh on this machine, in the foreground. It waits for the mesh's NATS servers, so that\n" +
			"machines may start in any order. Any number of nodes can join; each has a DIR of its own, on a local disk.\n" +
			"Ctrl-C and SIGTERM let commands finish within --grace, and give the workspaces to the other nodes; a second\n" +
			"Ctrl-C stops at once. Each flag can also be given as WSMESH_<FLAG>.",
		Args: between(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			names := []string{"nats", "creds", "data", "name", "isolation", "capture", "net", "net-except", "zone", "label", "grace", "log-format", "log-level"}
			err := flagsFromEnv(cmd, append(names, mirrorNames...)...)
			if err != nil {
				return err
			}
			return n.run(cmd)
		},
	}
	f := cmd.Flags()
	f.StringVar(&n.nats, "nats", "", "`URL` of a NATS server of the mesh, or several with commas between")
	f.StringVar(&n.creds, "creds", "", "`FILE`: the mesh's node.creds; ca.pem is read from beside it")
	f.StringVar(&n.data, "data", "", "`DIR` for workspaces, this node's alone")
	f.StringVar(&n.name, "name", "", "`ID` of the node (default the machine's name)")
	f.StringVar(&n.isolation, "isolation", "auto", "auto, bwrap, software or none")
	f.StringVar(&n.capture, "capture", "auto", captureUsage)
	bindNet(cmd, &n.net, &n.netExcept)
	f.StringVar(&n.zone, "zone", "", "`ZONE` that it is in, for workspaces that need it")
	f.StringSliceVar(&n.labelFlags, "label", nil, "`NAME=VALUE` that it has, for workspaces that need it; repeatable")
	n.mirror.bind(cmd, false)
	f.DurationVar(&n.grace, "grace", defaultGrace, "how long commands may go on when it ends")
	f.StringVar(&n.logFormat, "log-format", "text", "text or json")
	f.StringVar(&n.logLevel, "log-level", "warn", "debug, info, warn or error")
	return cmd
}

// check refuses what cannot be, and returns the node's name.
func (n *nodeFlags) check(cmd *cobra.Command) (mesh.Node, error) {
	for flag, value := range map[string]string{"nats": n.nats, "creds": n.creds, "data": n.data} {
		if value == "" {
			return "", wrongUse(cmd, "--%s is missing", flag)
		}
	}
	if err := client.CheckSecret(n.nats); err != nil {
		return "", wrongUse(cmd, "--nats: %s", errorText(err))
	}
	if err := checkIsolation(cmd, n.isolation); err != nil {
		return "", err
	}
	if err := checkCapture(cmd, n.capture); err != nil {
		return "", err
	}
	if err := checkNets(cmd, n.net, n.netExcept); err != nil {
		return "", err
	}
	var err error
	if n.labels, err = labelsOf(cmd, n.labelFlags); err != nil {
		return "", err
	}
	if err := mesh.CheckPlace(n.zone, n.labels); err != nil {
		return "", wrongUse(cmd, "%s", errorText(err))
	}
	if n.grace < 0 {
		return "", wrongUse(cmd, "--grace %s is negative", n.grace)
	}
	if n.name != "" {
		name, err := mesh.ParseNode(n.name)
		if err != nil {
			return "", wrongUse(cmd, "--name: %s", errorText(err))
		}
		return name, nil
	}
	host, err := os.Hostname()
	name, parseErr := mesh.ParseNode(nodeName(host))
	if err != nil || parseErr != nil {
		return "", wrongUse(cmd, "the machine's name, %q, cannot be a node's; choose one with --name", host)
	}
	return name, nil
}

// nodeName makes a node's name of the first part of a machine's.
func nodeName(host string) string {
	host, _, _ = strings.Cut(strings.ToLower(host), ".")
	host = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, host)
	return strings.Trim(host[:min(len(host), 40)], "-")
}

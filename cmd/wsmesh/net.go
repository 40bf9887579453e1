package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/node/egress"
)

// bindNet adds what the operator says about the network of commands.
func bindNet(cmd *cobra.Command, net *string, except *[]string) {
	f := cmd.Flags()
	f.StringVar(net, "net", "none", "`NETWORK` that commands have, and the most that they may ask for: none, full or allow:HOST,…")
	f.StringSliceVar(except, "net-except", nil, "`ADDRESS[/BITS][:PORT]` that is not public and may be reached with --net allow all the same")
}

// checkNets checks the flags of bindNet.
func checkNets(cmd *cobra.Command, net string, except []string) error {
	for _, s := range except {
		if _, err := egress.ParseException(s); err != nil {
			return wrongUse(cmd, "--net-except: %s", errorText(err))
		}
	}
	return checkNet(cmd, net)
}

// checkNet checks a --net flag.
func checkNet(cmd *cobra.Command, net string) error {
	if net == "" {
		return nil
	}
	if _, err := egress.Parse(net); err != nil {
		return wrongUse(cmd, "--net: %s", errorText(err))
	}
	return nil
}

// explainNet says what the network may have had to do with a failure; stderr is
// where the command's went.
func explainNet(out io.Writer, final *mesh.Final, stderr io.Writer) {
	var last []byte
	if t, ok := stderr.(*tail); ok {
		last = t.last
	}
	if hint := client.NetworkHint(final, last); hint != "" {
		fmt.Fprintf(out, "wsmesh: net: %s\n", hint)
	}
}

// tailBytes is where a program says last why it failed.
const tailBytes = 4 << 10

// tail passes on what is written, and keeps the last of it.
type tail struct {
	out  io.Writer
	last []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.last = append(t.last, p[max(0, len(p)-tailBytes):]...)
	t.last = t.last[max(0, len(t.last)-tailBytes):]
	return t.out.Write(p)
}

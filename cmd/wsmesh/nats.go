package main

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/mesh/natsd"
)

// natsGrace bounds an orderly end of a server: it hands its streams over meanwhile.
const natsGrace = 30 * time.Second

func newNATS() *cobra.Command {
	var file, logFormat, logLevel string
	cmd := &cobra.Command{
		Use:   "nats --config FILE",
		Short: "Run one NATS server of a mesh, in the foreground",
		Long: "Run one NATS server of a mesh, in the foreground, as the FILE says that `wsmesh init` has written. Names of\n" +
			"files in it are relative to its directory, where the server keeps its streams. Ctrl-C and SIGTERM hand its\n" +
			"streams over to the other servers first. Each flag can also be given as WSMESH_<FLAG>.",
		Args: between(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := flagsFromEnv(cmd, "config", "log-format", "log-level"); err != nil {
				return err
			}
			if file == "" {
				return wrongUse(cmd, "--config is missing")
			}
			log, err := newLogger(cmd, logFormat, logLevel)
			if err != nil {
				return err
			}
			if _, err := os.Stat(file); err != nil {
				return mesh.Errorf(mesh.CodeOf(err), "--config: %s", err)
			}
			if err := os.Chdir(filepath.Dir(file)); err != nil {
				return local(err)
			}
			s, err := natsd.StartFile(filepath.Base(file), log)
			if err != nil {
				return local(err)
			}
			cmd.PrintErrf("wsmesh %s: NATS server %s listens on %s\n", version, s.Name(), s.Addr())
			<-cmd.Context().Done()
			cmd.PrintErrln("wsmesh: stopping")
			ctx, cancel := context.WithTimeout(context.Background(), natsGrace)
			defer cancel()
			return s.Shutdown(ctx)
		},
	}
	f := cmd.Flags()
	f.StringVar(&file, "config", "", "`FILE`: the nats-N.conf of this server")
	f.StringVar(&logFormat, "log-format", "text", "text or json")
	f.StringVar(&logLevel, "log-level", "warn", "debug, info, warn or error")
	return cmd
}

package main

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/node/onebox"
)

func (d *devFlags) run(cmd *cobra.Command) error {
	host, port, err := d.check(cmd)
	if err != nil {
		return err
	}
	log, err := d.logger(cmd)
	if err != nil {
		return err
	}
	dir, err := (&target{data: d.data}).dir()
	if err != nil {
		return err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return err
	}
	if cmd.Flags().Changed("http") && d.http != "" {
		fmt.Fprintf(cmd.ErrOrStderr(), "wsmesh: the gateway is not built yet: nothing listens on %s\n", d.http)
	}
	ctx := cmd.Context()
	box, err := onebox.Start(ctx, onebox.Config{
		Data: dir, Host: host, Port: port, Sync: d.sync, Isolation: d.isolation, Net: d.net,
		Grace: d.grace, Version: version, Log: log,
	})
	if err != nil {
		if ctx.Err() != nil { // stopped before it was up, as asked
			return nil
		}
		return local(err)
	}
	d.banner(cmd.OutOrStdout(), box.URL(), dir, nodesOf(ctx, box.URL(), dir))
	return d.wait(cmd, box)
}

// nodesOf asks the new box what it achieved; without an answer the banner says
// nothing about it.
func nodesOf(ctx context.Context, url, dir string) []mesh.NodeStatus {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var reply mesh.StatusReply
	if (&target{url: url, data: dir}).request(ctx, mesh.VerbAdminStatus, struct{}{}, &reply) != nil {
		return nil
	}
	return reply.Nodes
}

// wait lets the box run until a signal, or until it fails.
func (d *devFlags) wait(cmd *cobra.Command, box *onebox.Box) error {
	ended := make(chan error, 1)
	go func() { ended <- box.Wait() }()
	select {
	case <-cmd.Context().Done():
		fmt.Fprintf(cmd.ErrOrStderr(), "wsmesh: stopping; commands have %s to finish, Ctrl-C stops at once\n", d.grace)
		err := box.Close()
		<-ended
		return err
	case err := <-ended:
		closeErr := box.Close()
		if err == nil {
			err = closeErr
		}
		if err == nil {
			err = mesh.Errorf(mesh.CodeInternal, "the node ended without a reason")
		}
		return err
	}
}

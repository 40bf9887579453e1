package main

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/wsmesh/wsmesh/mcpgw"
	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/node"
	"github.com/wsmesh/wsmesh/node/onebox"
	"github.com/wsmesh/wsmesh/objstore"
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
	ctx := cmd.Context()
	remote, err := d.mirror.open(ctx, cmd)
	if err != nil {
		return err
	}
	l, elsewhere, err := d.listen(cmd)
	if err != nil {
		return err
	}
	box, err := onebox.Start(ctx, onebox.Config{
		Data: dir, Host: host, Port: port, Sync: d.sync, Isolation: d.isolation, Capture: d.capture, Net: d.net, NetExcept: d.netExcept,
		Mirror: d.mirror.config(remote),
		Grace:  d.grace, HTTP: httpURL(l, false), Version: version, Log: log,
	})
	if err != nil {
		if l != nil {
			l.Close()
		}
		if ctx.Err() != nil { // stopped before it was up, as asked
			return nil
		}
		if mesh.CodeOf(err) == mesh.CodeBusy {
			return mesh.Errorf(mesh.CodeBusy, "%s; a mesh runs there already, perhaps one of wsmesh mcp: commands can use it as it is, see wsmesh status", errorText(err))
		}
		return local(err)
	}
	for _, line := range []string{elsewhere, d.weakness()} {
		if line != "" {
			cmd.PrintErrln(line)
		}
	}
	gateway := startGateway(l, &watchedMesh{url: box.URL()}, mcpgw.HTTPConfig{Version: version, Log: log, Origins: d.origins, Grace: max(d.grace, time.Millisecond)})
	d.banner(cmd.OutOrStdout(), box.URL(), httpURL(l, false), dir, nodesOf(ctx, box.URL(), dir))
	return d.wait(cmd, box, gateway)
}

// config is what a node is told of it.
func (m *mirrorFlags) config(r objstore.Remote) node.MirrorConfig {
	return node.MirrorConfig{Remote: r, URL: m.s3, Adopt: m.adopt, Files: m.files}
}

// listen opens the gateway's port before anything else: a port in use is no reason
// to have started a mesh. Of the default port it is no reason to start none, and
// the text to show once the mesh is up says so.
func (d *devFlags) listen(cmd *cobra.Command) (l net.Listener, elsewhere string, err error) {
	if d.http == "" {
		return nil, "", nil
	}
	l, err = listenHTTP(cmd, d.http, false)
	if err == nil || mesh.CodeOf(err) != mesh.CodeExists || d.http != defaultHTTP || cmd.Flags().Changed("http") {
		return l, "", err
	}
	if l, err = listenHTTP(cmd, "127.0.0.1:0", false); err != nil {
		return nil, "", err
	}
	return l, fmt.Sprintf("wsmesh: %s is in use; the gateway listens on %s instead (choose an address with --http)", d.http, l.Addr()), nil
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

// wait lets the box run until a signal, or until it or its gateway fails. The
// gateway ends first: its calls are commands of the box.
func (d *devFlags) wait(cmd *cobra.Command, box *onebox.Box, gateway *gateway) error {
	ended := make(chan error, 1)
	go func() { ended <- box.Wait() }()
	var err error
	select {
	case <-cmd.Context().Done():
		fmt.Fprintf(cmd.ErrOrStderr(), "wsmesh: stopping; commands have %s to finish, Ctrl-C stops at once\n", d.grace)
		err = gateway.Close()
	case <-gateway.ended():
		err = gateway.Close()
	case err = <-ended:
		gateway.Close() //nolint:errcheck // the node failed first
		if err == nil {
			err = mesh.Errorf(mesh.CodeInternal, "the node ended without a reason")
		}
		return cmp.Or(box.Close(), err)
	}
	closeErr := box.Close()
	<-ended
	return cmp.Or(err, closeErr)
}

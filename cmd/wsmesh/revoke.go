package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/mesh/auth"
)

// serversTime is how long all NATS servers of a mesh have to say that they took a change.
const serversTime = 3 * time.Second

func newTokenRevoke() *cobra.Command {
	var t target
	cmd := &cobra.Command{
		Use:   "revoke ID",
		Short: "Let nobody in with a token any more, and end the connections that have it",
		Long: "Let nobody in with a token any more, and end the connections that have it. Commands that run go on: see kill.\n" +
			"This needs DIR/keys, which only the machine has that made the mesh. A NATS server that is down learns it when it is back.",
		Args: between(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := t.revoker(cmd)
			if err != nil {
				return err
			}
			defer r.Close()
			return r.revoke(cmd.Context(), mesh.TokenID(args[0]))
		},
	}
	t.bindOwn(cmd)
	return cmd
}

// revoker tells the servers whom not to let in.
type revoker struct {
	*operator
	cmd  *cobra.Command
	keys string // directory
}

// revoker connects as the operator who has the keys; CodeDenied without them.
func (t *target) revoker(cmd *cobra.Command) (*revoker, error) {
	dir, err := t.dir()
	if err != nil {
		return nil, err
	}
	keys := filepath.Join(dir, "keys")
	if _, err := auth.Revoke(keys, nil); mesh.CodeOf(err) == mesh.CodeNotFound {
		return nil, mesh.Errorf(mesh.CodeDenied, "this needs the keys of the mesh, and they are not in %s; name the directory that wsmesh init or dev has made with --data DIR", keys)
	} else if err != nil {
		return nil, local(err)
	}
	o, err := t.operator()
	if err != nil {
		return nil, err
	}
	return &revoker{operator: o, cmd: cmd, keys: keys}, nil
}

// keepOut tells the servers whom DIR/keys says to be revoked, if there is anybody, and keys.
func (t *target) keepOut(cmd *cobra.Command) error {
	dir, err := t.dir()
	if err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(dir, "keys", auth.RevokedDir)); err != nil {
		return nil //nolint:nilerr // who has no keys has revoked nothing
	}
	r, err := t.revoker(cmd)
	if err != nil {
		return err
	}
	defer r.Close()
	return r.revoke(cmd.Context(), "")
}

// revoke records that a token is revoked, then tells the servers of all that are, until
// none came to them meanwhile: of two operators at once the last one tells both. What was
// broken off is made good by doing it again. Without an id it only tells.
func (r *revoker) revoke(ctx context.Context, id mesh.TokenID) error {
	told := -1
	for {
		users, err := r.recorded(ctx, id)
		if err != nil {
			return err
		}
		if len(users) == told {
			return nil
		}
		told = len(users)
		keys, err := auth.Revoke(r.keys, users)
		if err != nil {
			return local(err)
		}
		if err := r.tell(ctx, keys); err != nil {
			return fmt.Errorf("the token is recorded as revoked; do this again: %w", err)
		}
	}
}

// recorded records that a token is revoked, if there is an id, and returns all that are.
func (r *revoker) recorded(ctx context.Context, id mesh.TokenID) (users []auth.Revoked, err error) {
	for req := (mesh.TokenRevokeRequest{ID: id}); ; {
		var reply mesh.TokenRevokeReply
		if err := r.ask(ctx, mesh.VerbAdminTokenRevoke, req, &reply); err != nil {
			return nil, err
		}
		for _, e := range reply.Revoked {
			u := auth.Revoked{User: e.User, At: *e.Revoked}
			if e.Expires != nil {
				u.Expires = *e.Expires
			}
			users = append(users, u)
			req = mesh.TokenRevokeRequest{After: e.ID}
		}
		if !reply.More {
			return users, nil
		}
	}
}

// tell gives the servers the account of the mesh as it is now.
func (r *revoker) tell(ctx context.Context, keys *auth.Keys) error {
	creds, err := keys.Accounts()
	if err != nil {
		return local(err)
	}
	as, err := connectOperator(r.url, creds, r.ca)
	if err != nil {
		return err
	}
	defer as.Close()
	inbox := creds.Inbox + "." + mesh.NewID()
	answers, err := as.conn.SubscribeSync(inbox)
	if err == nil {
		err = as.conn.PublishRequest(auth.UpdateSubject(keys.Mesh().ID), inbox, []byte(keys.Mesh().JWT))
	}
	if err != nil {
		return mesh.Errorf(mesh.CodeUnavailable, "tell the servers at %s: %s", r.url, err)
	}
	ctx, cancel := context.WithTimeout(ctx, serversTime)
	defer cancel()
	servers, took := len(as.conn.Servers()), 0
	for took < servers {
		m, err := answers.NextMsgWithContext(ctx)
		if err != nil && (took == 0 || !errors.Is(err, context.DeadlineExceeded)) {
			return mesh.Errorf(mesh.CodeUnavailable, "no NATS server at %s has said that it let the token go: %s", r.url, err)
		}
		if err != nil {
			r.cmd.PrintErrf("wsmesh: %d of %d NATS servers have answered; the others learn it when they are back\n", took, servers)
			return nil
		}
		if err := serverAnswer(m); err != nil {
			return err
		}
		took++
	}
	return nil
}

// serverAnswer is the error that a server's answer to a changed account holds.
func serverAnswer(m *nats.Msg) error {
	var answer struct {
		Server struct {
			Name string `json:"name"`
		} `json:"server"`
		Error *struct {
			Description string `json:"description"`
		} `json:"error"`
	}
	if err := json.Unmarshal(m.Data, &answer); err != nil {
		return mesh.Errorf(mesh.CodeInternal, "a NATS server answers what is no answer: %s", err)
	}
	if answer.Error != nil {
		return mesh.Errorf(mesh.CodeInternal, "NATS server %s: %s", answer.Server.Name, answer.Error.Description)
	}
	return nil
}

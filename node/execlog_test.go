package node_test

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/node/nodetest"
)

// numbered is what seq prints, cut: every byte has its place.
func numbered(n int) []byte {
	b := make([]byte, 0, n+8)
	for i := 0; len(b) < n; i++ {
		digits := strconv.Itoa(10_000_000 + i)
		b = append(append(b, digits[1:]...), '\n')
	}
	return b[:n]
}

const printNumbered = "awk 'BEGIN { for (i = 0; i < %d; i++) printf \"%%07d\\n\", i }'"

// Of more output than a log holds, the beginning and the end are kept, the gap is
// seen as one, and the command is not hindered.
func TestLogKeepsBothEnds(t *testing.T) {
	t.Parallel() // it waits more than it works
	nodetest.Commands(t)
	const most, all = 2 << 20, 6 << 20
	nodetest.LocalWith(t, nodetest.Config{MaxLog: most}, func(t *testing.T, m *nodetest.Mesh) {
		ctx, ws := t.Context(), m.Client.Workspace("repo")
		want := numbered(all)
		cmd := ws.Command(ctx, "sh", "-c", fmt.Sprintf(printNumbered, all/8))
		var live bytes.Buffer
		cmd.Stdout = &live
		require.NoError(t, cmd.Run())
		require.Equal(t, uint64(all), cmd.Final().Output)
		missing := int(cmd.Final().Missing)
		require.Greater(t, missing, all-most-most/8-4*64<<10)
		require.LessOrEqual(t, missing, all-most)
		require.GreaterOrEqual(t, live.Len(), all-missing)

		x, err := ws.Attach(ctx, cmd.ID)
		require.NoError(t, err)
		defer x.Close()
		at, gaps := 0, 0
		for o, err := range x.Output(ctx) {
			require.NoError(t, err)
			if o.Missing > 0 {
				gaps++
				require.GreaterOrEqual(t, at, most/4)
				require.Equal(t, missing, int(o.Missing))
			}
			at = int(o.Offset)
			require.True(t, bytes.Equal(want[at:at+len(o.Data)], o.Data), "at %d", at)
			at += len(o.Data)
		}
		require.Equal(t, all, at)
		require.Equal(t, 1, gaps)
		require.Equal(t, cmd.Final(), x.Final())

		for _, from := range []int{most / 8, most, all / 2, all - most/2, all - 3, all, all + 5} {
			x, err := ws.Attach(ctx, cmd.ID, client.FromOffset(uint64(from)))
			require.NoError(t, err)
			at := from
			for o, err := range x.Output(ctx) {
				require.NoError(t, err)
				require.Equal(t, uint64(at)+o.Missing, o.Offset)
				at = int(o.Offset)
				require.True(t, bytes.Equal(want[at:at+len(o.Data)], o.Data))
				at += len(o.Data)
			}
			require.Equal(t, max(from, all), at, "from %d", from)
			x.Close()
		}
		e, err := ws.Exec(ctx, cmd.ID)
		require.NoError(t, err)
		require.Equal(t, cmd.Final(), e.Final)
	})
}

// One tenant's logs are bounded, by name, and nobody else's.
func TestLogsOfATenantAreBounded(t *testing.T) {
	nodetest.Commands(t)
	nodetest.LocalWith(t, nodetest.Config{MaxLogs: 2 << 20}, func(t *testing.T, m *nodetest.Mesh) {
		ctx, ws := t.Context(), m.Client.Workspace("repo")
		cmd := ws.Command(ctx, "head", "-c", "4000000", "/dev/zero")
		require.NoError(t, cmd.Run())
		require.Equal(t, "log", cmd.Final().Limit)
		require.Positive(t, cmd.Final().Missing)
		id := mesh.NewExecID()
		for range 50 {
			if err := ws.Command(ctx, "true").Run(); err != nil {
				requireCode(t, mesh.CodeQuota, err)
				require.ErrorContains(t, err, "2.0 MiB")
				break
			}
			ws.Command(ctx, "head", "-c", "40000", "/dev/zero").Run() //nolint:errcheck // it fills what is left
		}
		requireCode(t, mesh.CodeQuota, ws.Command(ctx, "true").Run())
		requireCode(t, mesh.CodeQuota, ws.Signal(ctx, string(id), "KILL"))

		m.CreateTenant(t, "other")
		other := m.Connect(t, m.Token(t, "other")).Workspace("repo")
		require.NoError(t, other.Command(ctx, "true").Run())
		m.StopNode(t)
		m.StartNode(t)
		requireCode(t, mesh.CodeQuota, ws.Command(ctx, "true").Run())

		require.NoError(t, m.Client.RemoveWorkspace(ctx, "repo"))
		require.NoError(t, ws.Command(ctx, "true").Run())
		_, err := ws.Exec(ctx, cmd.ID)
		requireCode(t, mesh.CodeNotFound, err)
	})
}

// finals is how many final frames a log has.
func finals(t *testing.T, m *nodetest.Mesh, id string) (n int) {
	t.Helper()
	js, err := jetstream.New(m.Streams(t))
	require.NoError(t, err)
	stream, err := js.Stream(t.Context(), mesh.ExecLogStream(0))
	require.NoError(t, err)
	subject := mesh.ExecLogSubject(0, nodetest.Tenant, "repo", mesh.ExecID(id))
	for seq := uint64(1); ; seq++ {
		raw, err := stream.GetMsg(t.Context(), seq, jetstream.WithGetMsgSubject(subject))
		if err != nil {
			return n
		}
		f, err := mesh.DecodeFrame(raw.Data)
		require.NoError(t, err)
		if f.Final != nil {
			n++
		}
		seq = raw.Sequence
	}
}

// An exec that another owner has declared lost stays lost, whatever the command
// does afterwards on the node that still runs it: with output on its way, and
// without.
func TestStaleOwnerCannotEndALostExec(t *testing.T) {
	nodetest.Each(t, func(t *testing.T, m *nodetest.Mesh) {
		nodetest.Commands(t)
		ctx, ws := t.Context(), m.Client.Workspace("repo")
		js, err := jetstream.New(m.Streams(t))
		require.NoError(t, err)
		for name, script := range map[string]string{
			"silent":      "read x < gate",
			"with output": "echo before; read x < gate; echo after; echo more; sleep 0.1; echo end",
		} {
			t.Run(name, func(t *testing.T) {
				require.NoError(t, ws.Command(ctx, "sh", "-c", "rm -f gate; mkfifo gate").Run())
				cmd := ws.Command(ctx, "sh", "-c", script)
				require.NoError(t, cmd.Start())
				require.Eventually(t, func() bool {
					e, err := ws.Exec(ctx, cmd.ID)
					return err == nil && e.Running && (name == "silent" || e.Output > 0)
				}, 10*time.Second, 5*time.Millisecond)
				lost := mesh.Frame{Kind: mesh.FrameFinal, Number: 2, Final: &mesh.Final{ErrorCode: mesh.CodeLost, ErrorText: "declared"}}
				msg := nats.NewMsg(mesh.ExecLogSubject(0, nodetest.Tenant, "repo", mesh.ExecID(cmd.ID)))
				msg.Data, err = lost.Encode()
				require.NoError(t, err)
				_, err = js.PublishMsg(ctx, msg)
				require.NoError(t, err)
				running, err := ws.Running(ctx)
				require.NoError(t, err)
				require.Empty(t, running, "it is over for everybody else")

				require.NoError(t, ws.Command(ctx, "sh", "-c", "echo x > gate").Run())
				require.Eventually(t, func() bool {
					info, err := ws.Info(ctx)
					return err == nil && info.Execs == 0
				}, 10*time.Second, 5*time.Millisecond)
				requireCode(t, mesh.CodeLost, cmd.Wait())
				require.Equal(t, 1, finals(t, m, cmd.ID))
				e, err := ws.Exec(ctx, cmd.ID)
				require.NoError(t, err)
				require.Equal(t, mesh.CodeLost, e.Final.ErrorCode)
				require.NoError(t, err)
				require.True(t, strings.HasPrefix(e.Final.ErrorText, "declared"))
			})
		}
	})
}

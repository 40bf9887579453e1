package node_test

import (
	"bytes"
	"fmt"
	"io/fs"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/mesh/meshtest"
	"github.com/wsmesh/wsmesh/node/nodetest"
)

func setLimits(t *testing.T, m *nodetest.Mesh, l mesh.Limits) {
	t.Helper()
	var reply mesh.TenantQuotaReply
	require.NoError(t, m.Ask(t, mesh.VerbAdminTenantQuota, mesh.TenantQuotaRequest{Tenant: nodetest.Tenant, Set: &l}, &reply))
	require.Equal(t, l, reply.Set)
}

// Whatever ends a command or keeps it from something is what the final frame names.
func TestTheLimitThatWasMetIsNamed(t *testing.T) {
	nodetest.Local(t, func(t *testing.T, m *nodetest.Mesh) {
		nodetest.Commands(t)
		ws := m.Client.Workspace("repo")
		require.NoError(t, ws.WriteFile(t.Context(), "f", nil, 0))
		setLimits(t, m, mesh.Limits{MemoryBytes: 64 << 20, Pids: 24, CPUMillis: 1500, TimeoutMS: 20_000, OutputBytes: 100_000, FileBytes: 1 << 20, DiskBytes: 16 << 20, DiskFiles: 200})
		require.Eventually(t, func() bool { // until the node has heard of it
			return mesh.CodeOf(limited(ws.Command(t.Context(), "true"), 25).Run()) == mesh.CodeQuota
		}, 10*time.Second, 10*time.Millisecond)
		for _, c := range []struct {
			name, script string
			limit        string
			code         int
			timeout      time.Duration
			rlimit       bool // is seen without cgroups as well
		}{
			{name: "none", script: "true", rlimit: true},
			{name: "memory", script: "tail /dev/zero", limit: "memory", code: 137},
			{name: "memory, and then all is well", script: "tail /dev/zero; true", limit: "memory"},
			{name: "pids", script: "for i in $(seq 40); do sleep 1 & done; true", limit: "pids", code: 2},
			{name: "a fork bomb", script: "f() { f | f & }; f & while :; do :; done", limit: "timeout", code: 124, timeout: time.Second},
			{name: "timeout", script: "sleep 60", limit: "timeout", code: 124, timeout: 50 * time.Millisecond, rlimit: true},
			{name: "output", script: "yes", limit: "output", code: 137, rlimit: true},
			{name: "file size", script: "exec head -c 2M /dev/zero > big", limit: "disk", code: 153, rlimit: true},
			{name: "disk", script: "while :; do i=$((i+1)); head -c 512K /dev/zero > full$i; sleep 0.01; done", limit: "disk", code: 137, rlimit: true},
		} {
			t.Run(c.name, func(t *testing.T) {
				if info := levelOf(t, m); !c.rlimit && info == "rlimit" {
					t.Skip("SKIPPED: needs cgroups")
				}
				cmd := ws.Command(t.Context(), "sh", "-c", c.script)
				cmd.Timeout, cmd.AllowDangerous = c.timeout, true
				err := cmd.Run()
				final := cmd.Final()
				require.NotNil(t, final, "%v", err)
				require.Equal(t, c.limit, final.Limit, "%+v", final)
				require.Equal(t, c.code, final.Code)
				if c.name == "a fork bomb" {
					require.Equal(t, []string{"timeout", "pids"}, []string{final.Met[0].Name, final.Met[1].Name})
				}
			})
		}
		t.Run("what is full can be emptied", func(t *testing.T) {
			require.NoError(t, ws.Command(t.Context(), "sh", "-c", "rm full* big").Run())
			require.Eventually(t, func() bool {
				return ws.Command(t.Context(), "sh", "-c", "echo x > again").Run() == nil
			}, 10*time.Second, 20*time.Millisecond)
		})
		t.Run("files", func(t *testing.T) {
			cmd := ws.Command(t.Context(), "sh", "-c", "mkdir many; cd many; while :; do i=$((i+1)); : > $i; sleep 0.001; done")
			require.Error(t, cmd.Run())
			require.Equal(t, "disk", cmd.Final().Limit)
			require.Equal(t, mesh.CodeQuota, mesh.CodeOf(ws.WriteFile(t.Context(), "one-more", nil, 0)))
			require.NoError(t, ws.RemoveAll(t.Context(), "many"))
			require.NoError(t, ws.WriteFile(t.Context(), "one-more", nil, 0))
		})
	})
}

func limited(cmd *client.Cmd, pids int64) *client.Cmd {
	cmd.Pids = pids
	return cmd
}

func levelOf(t *testing.T, m *nodetest.Mesh) string {
	t.Helper()
	var status mesh.StatusReply
	require.NoError(t, m.Ask(t, mesh.VerbAdminStatus, struct{}{}, &status))
	return fmt.Sprint(status.Nodes[0].Isolation.(map[string]any)["limits"])
}

// A workspace takes no more than it may through requests either: what does not fit
// is refused before anything changes, and removing makes room.
func TestRequestsKeepToTheDiskLimit(t *testing.T) {
	m := nodetest.Start(t, meshtest.Server(t), nodetest.Config{})
	ctx, ws := t.Context(), m.Client.Workspace("repo")
	setLimits(t, m, mesh.Limits{DiskBytes: 4 << 20})
	half := bytes.Repeat([]byte("x"), 400<<10)
	var err error
	n := 0
	require.Eventually(t, func() bool { // until its files were counted for the first time
		err = ws.WriteFile(ctx, fmt.Sprint(n), half, 0)
		n++
		return err != nil
	}, 20*time.Second, 20*time.Millisecond)
	require.Equal(t, mesh.CodeQuota, mesh.CodeOf(err), "%v", err)
	require.ErrorContains(t, err, "4 MiB")
	require.Equal(t, mesh.CodeQuota, mesh.CodeOf(ws.Put(ctx, "large", bytes.NewReader(make([]byte, 2<<20)), 0)))
	for i := range n - 1 {
		require.NoError(t, ws.Remove(ctx, fmt.Sprint(i)))
	}
	fits := func(do func() error) { // what was added while the files were counted counts twice until the next time
		require.Eventually(t, func() bool { return do() == nil }, 20*time.Second, 50*time.Millisecond)
	}
	fits(func() error { return ws.WriteFile(ctx, "fits", half, 0) })

	for i := range 4 {
		fits(func() error { return ws.WriteFile(ctx, fmt.Sprint("dir/", i), half, 0) }) // 1.6 MiB
	}
	var archive bytes.Buffer
	require.NoError(t, ws.GetDir(ctx, "dir", &archive))
	// The archive itself is there only meanwhile.
	fits(func() error { return ws.PutDir(ctx, "up", bytes.NewReader(archive.Bytes())) })
	refused := func(err error) { require.Equal(t, mesh.CodeQuota, mesh.CodeOf(err), "%v", err) }
	refused(ws.Copy(ctx, "dir", "again"))
	refused(ws.PutDir(ctx, "again", bytes.NewReader(archive.Bytes())))
	_, err = ws.Stat(ctx, "again")
	require.ErrorIs(t, err, fs.ErrNotExist)
	fits(func() error { return ws.Copy(ctx, "fits", "dir/0") })
	m.CreateTenant(t, "other")
	require.NoError(t, m.Connect(t, m.Token(t, "other")).Workspace("repo").WriteFile(ctx, "f", half, 0), "a tenant's limits are its own")
}

func TestLimitsOfATenant(t *testing.T) {
	m := nodetest.Start(t, meshtest.Server(t), nodetest.Config{})
	quota := func(req mesh.TenantQuotaRequest) (mesh.TenantQuotaReply, error) {
		var reply mesh.TenantQuotaReply
		err := m.Ask(t, mesh.VerbAdminTenantQuota, req, &reply)
		return reply, err
	}
	before, err := quota(mesh.TenantQuotaRequest{Tenant: nodetest.Tenant})
	require.NoError(t, err)
	require.Zero(t, before.Set)
	require.Equal(t, int64(2<<30), before.Limits.MemoryBytes)
	after, err := quota(mesh.TenantQuotaRequest{Tenant: nodetest.Tenant, Set: &mesh.Limits{DiskBytes: 1 << 20, FileBytes: 1 << 30}})
	require.NoError(t, err)
	require.Equal(t, int64(1<<20), after.Limits.FileBytes, "no file is larger than its disk")
	for name, l := range map[string]mesh.Limits{"negative": {Pids: -1}, "too little": {MemoryBytes: 1}} {
		_, err = quota(mesh.TenantQuotaRequest{Tenant: nodetest.Tenant, Set: &l})
		require.Equal(t, mesh.CodeInvalid, mesh.CodeOf(err), name)
	}
	_, err = quota(mesh.TenantQuotaRequest{Tenant: "nobody", Set: &mesh.Limits{Pids: 1}})
	require.Equal(t, mesh.CodeNotFound, mesh.CodeOf(err))
	now, err := quota(mesh.TenantQuotaRequest{Tenant: nodetest.Tenant})
	require.NoError(t, err)
	require.Equal(t, after, now)
}

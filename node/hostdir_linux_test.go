package node_test

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/mesh/meshtest"
	"github.com/wsmesh/wsmesh/node/nodetest"
)

// ownerID is who has the directories of these tests where they run as root.
const ownerID = 41002

// userDir makes a directory of an ordinary user, with a file in it.
func userDir(t *testing.T, path string) string {
	t.Helper()
	require.NoError(t, os.MkdirAll(path, 0o755))
	file := filepath.Join(path, "theirs")
	require.NoError(t, os.WriteFile(file, []byte("1"), 0o644))
	if os.Geteuid() == 0 {
		require.NoError(t, os.Chown(path, ownerID, ownerID))
		require.NoError(t, os.Chown(file, ownerID, ownerID))
	}
	return path
}

func startHostDirs(t *testing.T) (m *nodetest.Mesh, base string) {
	t.Helper()
	base, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	dir := filepath.Join(base, "data", "mesh")
	require.NoError(t, os.MkdirAll(dir, 0o755))
	return nodetest.Start(t, meshtest.Server(t), nodetest.Config{Dir: dir, HostDirs: true}), base
}

func inDir(t *testing.T, m *nodetest.Mesh, workspace mesh.Workspace, dir string) error {
	t.Helper()
	req := mesh.WorkspaceDirRequest{Tenant: nodetest.Tenant, Workspace: workspace, Dir: mesh.Path(dir)}
	return m.Ask(t, mesh.VerbAdminWorkspaceDir, req, nil)
}

// A directory of the host is the workspace's tree where it is, through a restart,
// with its owner's ids; it survives the workspace.
func TestHostDir(t *testing.T) {
	m, base := startHostDirs(t)
	ctx, ws, dir := t.Context(), m.Client.Workspace("repo"), userDir(t, filepath.Join(base, "project"))
	require.NoError(t, inDir(t, m, "repo", dir))
	requireCode(t, mesh.CodeExists, inDir(t, m, "repo", userDir(t, filepath.Join(base, "another"))))
	requireCode(t, mesh.CodeExists, m.Client.CreateWorkspace(ctx, "repo"))
	use := func(name string) {
		b, err := ws.ReadFile(ctx, "theirs")
		require.NoError(t, err)
		require.Equal(t, "1", string(b))
		require.NoError(t, ws.WriteFile(ctx, "new/"+name, []byte(name), 0))
		b, err = os.ReadFile(filepath.Join(dir, "new", name))
		require.NoError(t, err)
		require.Equal(t, name, string(b))
	}
	use("first")
	info, err := ws.Info(ctx)
	require.NoError(t, err)
	require.Equal(t, mesh.CaptureNone, info.Capture)
	require.Empty(t, info.Ephemeral)
	m.StopNode(t)
	m.StartNode(t)
	use("second")
	var want, got syscall.Stat_t
	require.NoError(t, syscall.Stat(dir, &want))
	require.NoError(t, syscall.Stat(filepath.Join(dir, "new/second"), &got))
	require.Equal(t, [2]uint32{want.Uid, want.Gid}, [2]uint32{got.Uid, got.Gid})

	require.NoError(t, m.Client.RemoveWorkspace(ctx, "repo"))
	require.NoError(t, ws.WriteFile(ctx, "theirs", []byte("of a workspace of its own"), 0))
	require.NoError(t, m.Client.RemoveWorkspace(ctx, "repo"))
	for name, content := range map[string]string{"theirs": "1", "new/first": "first", "new/second": "second"} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		require.NoError(t, err)
		require.Equal(t, content, string(b))
	}
	require.NoError(t, inDir(t, m, "repo", dir), "it can be a workspace again")
	use("third")
}

// Commands run as the directory's owner, change it, and leave it by no link.
func TestHostDirCommands(t *testing.T) {
	nodetest.Commands(t)
	m, base := startHostDirs(t)
	ctx, ws, dir := t.Context(), m.Client.Workspace("repo"), userDir(t, filepath.Join(base, "project"))
	secret := filepath.Join(base, "secret")
	require.NoError(t, os.WriteFile(secret, []byte("SECRET"), 0o666))
	for name, target := range map[string]string{"up": "..", "far": secret, "near": "../secret"} {
		require.NoError(t, os.Symlink(target, filepath.Join(dir, name)))
	}
	require.NoError(t, inDir(t, m, "repo", dir))
	out, err := ws.Command(ctx, "sh", "-c", "cat theirs && echo made > mine && id -u && cat up/secret far near 2>/dev/null || pwd").Output()
	require.NoError(t, err)
	require.Regexp(t, `^1[0-9]+\n/workspace\n$`, string(out))
	info, err := os.Stat(filepath.Join(dir, "mine"))
	require.NoError(t, err)
	require.Equal(t, uint32(userOf(t, dir)), info.Sys().(*syscall.Stat_t).Uid)
	for _, path := range []string{"up/secret", "far", "near", "../secret"} {
		_, err := ws.ReadFile(ctx, path)
		require.Error(t, err, path)
		require.Error(t, ws.WriteFile(ctx, path+"/x", []byte("2"), 0), path)
	}
	b, err := os.ReadFile(secret)
	require.NoError(t, err)
	require.Equal(t, "SECRET", string(b))
}

func userOf(t *testing.T, path string) int {
	t.Helper()
	info, err := os.Stat(path)
	require.NoError(t, err)
	return int(info.Sys().(*syscall.Stat_t).Uid)
}

// What may not be a workspace is refused, and the operator's path is in the text.
func TestHostDirRefused(t *testing.T) {
	m, base := startHostDirs(t)
	project := userDir(t, filepath.Join(base, "project"))
	require.NoError(t, inDir(t, m, "taken", project))
	require.NoError(t, os.Symlink("project", filepath.Join(base, "link")))
	require.NoError(t, os.Symlink(m.Dir, filepath.Join(base, "mesh")))
	for name, c := range map[string]struct {
		dir  string
		code mesh.Code
	}{
		"relative":                    {"project", mesh.CodeInvalid},
		"not clean":                   {project + "/../project", mesh.CodeInvalid},
		"missing":                     {filepath.Join(base, "none"), mesh.CodeNotFound},
		"a file":                      {filepath.Join(project, "theirs"), mesh.CodeInvalid},
		"everything":                  {"/", mesh.CodeDenied},
		"the mesh's data":             {m.Dir, mesh.CodeDenied},
		"a link to the data":          {filepath.Join(base, "mesh"), mesh.CodeDenied},
		"above the data":              {userDir(t, filepath.Join(base, "data")), mesh.CodeDenied},
		"below the data":              {userDir(t, filepath.Join(m.Dir, "workspaces/x")), mesh.CodeDenied},
		"another workspace's":         {project, mesh.CodeExists},
		"a link to it":                {filepath.Join(base, "link"), mesh.CodeExists},
		"below another workspace's":   {userDir(t, filepath.Join(project, "sub")), mesh.CodeExists},
		"beside, with the same start": {userDir(t, project+"2"), ""},
	} {
		t.Run(name, func(t *testing.T) {
			err := inDir(t, m, "repo", c.dir)
			requireCode(t, c.code, err)
			if err != nil {
				require.ErrorContains(t, err, fmt.Sprintf("%q", c.dir))
			}
		})
	}
	require.NoError(t, os.MkdirAll(filepath.Join(base, "around/in"), 0o755))
	require.NoError(t, inDir(t, m, "inner", userDir(t, filepath.Join(base, "around/in"))))
	requireCode(t, mesh.CodeExists, inDir(t, m, "outer", userDir(t, filepath.Join(base, "around"))))
	requireCode(t, mesh.CodeInvalid, inDir(t, m, "No_Name", userDir(t, filepath.Join(base, "free"))))
	if os.Geteuid() == 0 {
		require.NoError(t, os.Mkdir(filepath.Join(base, "root"), 0o755))
		requireCode(t, mesh.CodeDenied, inDir(t, m, "root", filepath.Join(base, "root")))
	}
	left, err := os.ReadDir(filepath.Join(m.Dir, "workspaces/.trash"))
	require.NoError(t, err)
	require.Empty(t, left)
}

// A path of the host is the operator's to say, and only where the node allows it.
func TestHostDirOfTenant(t *testing.T) {
	m, base := startHostDirs(t)
	dir := userDir(t, filepath.Join(base, "project"))
	req := mesh.WorkspaceDirRequest{Tenant: nodetest.Tenant, Workspace: "other", Dir: mesh.Path(dir)}
	for _, c := range callers(t, m) {
		subject := mesh.AdminSubject(mesh.VerbAdminWorkspaceDir)
		require.NoError(t, c.Publish(subject, nil))
		require.NoError(t, c.Flush())
		require.Eventually(t, func() bool { return c.wasRefused("Publish", subject) }, 10*time.Second, 10*time.Millisecond, c.name)
		if c.claims.Bound == nil { // a field more than the request has says nothing
			require.NoError(t, c.ask(t, c.api(mesh.ServiceWorkspace, mesh.VerbWorkspaceCreate), "", req, nil))
		}
	}
	_, err := m.Client.Workspace("other").Stat(t.Context(), "theirs")
	requireCode(t, mesh.CodeNotFound, err)

	plain := nodetest.Start(t, meshtest.Server(t), nodetest.Config{})
	requireCode(t, mesh.CodeUnsupported, inDir(t, plain, "repo", dir))
}

// A directory that is gone, is a link now or has another kind of owner serves no
// files, and nothing is made in its place; put back it serves them again.
func TestHostDirMoved(t *testing.T) {
	m, base := startHostDirs(t)
	ctx, ws, dir := t.Context(), m.Client.Workspace("repo"), userDir(t, filepath.Join(base, "up/project"))
	away := filepath.Join(base, "away")
	victim := userDir(t, filepath.Join(base, "victim/project"))
	require.NoError(t, inDir(t, m, "repo", dir))
	changed := func(name string, change func()) {
		m.StopNode(t)
		change()
		m.StartNode(t)
		for op, err := range map[string]error{
			"write": ws.WriteFile(ctx, "theirs", []byte("2"), 0), "exec": ws.Command(ctx, "true").Run(),
		} {
			requireCode(t, mesh.CodeInternal, err)
			require.ErrorContains(t, err, "wsmesh workspace rm repo", "%s: %s", name, op)
			require.NotContains(t, err.Error(), base, "a host path in the text")
		}
	}
	changed("gone", func() { require.NoError(t, os.Rename(filepath.Dir(dir), away)) })
	require.NoDirExists(t, filepath.Dir(dir))
	changed("a link above", func() { require.NoError(t, os.Symlink("victim", filepath.Dir(dir))) })
	b, err := os.ReadFile(filepath.Join(victim, "theirs"))
	require.NoError(t, err)
	require.Equal(t, "1", string(b))

	m.StopNode(t)
	require.NoError(t, os.Remove(filepath.Dir(dir)))
	require.NoError(t, os.Rename(away, filepath.Dir(dir)))
	m.StartNode(t)
	b, err = ws.ReadFile(ctx, "theirs")
	require.NoError(t, err)
	require.Equal(t, "1", string(b))

	changed("gone again", func() { require.NoError(t, os.Rename(filepath.Dir(dir), away)) })
	require.NoError(t, m.Client.RemoveWorkspace(ctx, "repo"))
	require.FileExists(t, filepath.Join(away, "project/theirs"))
}

// The file verbs have the owner's rights, as commands have, and not the node's:
// what somebody else put into the directory, linked or mounted there stays his.
func TestHostDirOfOthers(t *testing.T) {
	nodetest.Need(t, os.Geteuid() == 0, "root", "without root the kernel looks at rights as it is")
	m, base := startHostDirs(t)
	ctx, ws, dir := t.Context(), m.Client.Workspace("repo"), userDir(t, filepath.Join(base, "project"))
	outside := filepath.Join(base, "outside")
	require.NoError(t, os.WriteFile(outside, []byte("ROOT"), 0o600))
	require.NoError(t, os.Link(outside, filepath.Join(dir, "link")))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "file"), []byte("ROOT"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "public"), []byte("all may read"), 0o644))
	require.NoError(t, os.Mkdir(filepath.Join(dir, "closed"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "closed/file"), []byte("ROOT"), 0o644))
	require.NoError(t, inDir(t, m, "repo", dir))
	for _, path := range []string{"link", "file", "closed/file"} {
		_, err := ws.ReadFile(ctx, path)
		requireCode(t, mesh.CodeDenied, err)
		requireCode(t, mesh.CodeDenied, ws.Chmod(ctx, path, 0o777))
		require.Error(t, ws.Copy(ctx, path, "copy"), path)
	}
	requireCode(t, mesh.CodeDenied, ws.WriteFile(ctx, "closed/new", nil, 0))
	requireCode(t, mesh.CodeDenied, ws.Remove(ctx, "closed/file"))
	require.Error(t, ws.Copy(ctx, "closed", "copied"))
	found, err := ws.GrepPage(ctx, mesh.GrepRequest{Pattern: "ROOT|all", Mode: mesh.GrepFiles})
	require.NoError(t, err)
	require.Len(t, found.Matches, 1)
	require.EqualValues(t, "public", found.Matches[0].Path)
	b, err := ws.ReadFile(ctx, "public")
	require.NoError(t, err)
	require.Equal(t, "all may read", string(b))
	info, err := os.Stat(outside)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())

	// What is the owner's, works as ever.
	require.NoError(t, ws.WriteFile(ctx, "large", make([]byte, 2*mesh.MaxMessage), 0))
	require.NoError(t, ws.Remove(ctx, "large"))
	require.NoError(t, ws.MkdirAll(ctx, "a/b", 0o755))
	require.NoError(t, ws.WriteFile(ctx, "a/b/c", []byte("1"), 0o600))
	require.NoError(t, ws.Copy(ctx, "a", "d"))
	require.NoError(t, ws.Rename(ctx, "d", "e"))
	require.NoError(t, ws.Chmod(ctx, "e/b/c", 0o644))
	require.NoError(t, ws.RemoveAll(ctx, "a"))
	require.Equal(t, ownerID, userOf(t, filepath.Join(dir, "e/b/c")))
	require.NoError(t, ws.RemoveAll(ctx, "e"))
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, left, 5, "%v", left)
}

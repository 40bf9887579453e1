package node

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/wsmesh/wsmesh/kv"
	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/sandbox"
)

// createInDir makes a workspace whose tree is a directory of this host, where it
// is. A path of the host comes from the operator alone: no tenant's request has
// one, and what is opened later is what the record says.
func (n *Node) createInDir(ctx context.Context, req *mesh.Request) error {
	var a mesh.WorkspaceDirRequest
	if err := req.Args(&a); err != nil {
		return err
	}
	t, err := mesh.ParseTenant(string(a.Tenant))
	if err != nil {
		return err
	}
	w, err := mesh.ParseWorkspace(string(a.Workspace))
	if err != nil {
		return err
	}
	if !n.hostDirs.Take("") {
		return mesh.Errorf(mesh.CodeBusy, "another directory is being made a workspace; try again")
	}
	defer n.hostDirs.Give("")
	if a.Zone != "" || len(a.Labels) > 0 {
		return mesh.Errorf(mesh.CodeInvalid, "a workspace in a directory of node %s is there; it can need no zone and no labels", n.cfg.Name)
	}
	if err := n.checkSettings(&a.Settings); err != nil {
		return err
	}
	dir, err := n.hostDir(string(a.Dir))
	if err == nil {
		err = n.checkFree(ctx, dir.Path)
	}
	if err == nil {
		err = n.tryDir(dir)
	}
	if err != nil {
		return mesh.About(fmt.Sprintf("directory %.200q", a.Dir), err)
	}
	_, err = n.newWorkspace(ctx, kv.WorkspaceRecord{Tenant: t, Name: w, Dir: mesh.Path(dir.Path), Settings: a.Settings})
	if mesh.CodeOf(err) != mesh.CodeExists {
		return err
	}
	if old, getErr := n.kv.Workspaces.Get(ctx, t, w); getErr == nil && old.Dir == "" {
		return mesh.Errorf(mesh.CodeExists, "workspace %s exists and is an ordinary one, with files of its own; choose another name, or remove it with its files: wsmesh workspace rm %s", w, w)
	}
	return err
}

// hostDir looks at a directory of the host that is to be a workspace, or is one.
// Its errors name no path.
func (n *Node) hostDir(path string) (sandbox.HostDir, error) {
	if !n.cfg.HostDirs {
		return sandbox.HostDir{}, mesh.Errorf(mesh.CodeUnsupported, "node %s makes no directory of its host a workspace; wsmesh dev does", n.cfg.Name)
	}
	dir, err := sandbox.FindHostDir(path)
	if err != nil {
		return dir, err
	}
	data, err := filepath.EvalSymlinks(n.cfg.Data)
	if err == nil {
		data, err = filepath.Abs(data)
	}
	if err != nil {
		n.log.Error("find the data directory", "err", err)
		return dir, mesh.Errorf(mesh.CodeInternal, "the node does not find its own data; its log has the details")
	}
	if overlap(dir.Path, data) {
		return dir, mesh.Errorf(mesh.CodeDenied, "the mesh's own data lies in it, or around it; choose another directory, or another one for the mesh with --data")
	}
	return dir, dir.CheckOwner()
}

// checkFree refuses a directory of which another workspace has a part: whoever
// reaches one of the two could change the other, and move it elsewhere.
func (n *Node) checkFree(ctx context.Context, path string) error {
	taken, err := n.kv.Workspaces.ListDirs(ctx)
	if err != nil {
		return err
	}
	for _, r := range taken {
		if overlap(path, string(r.Dir)) {
			return mesh.Errorf(mesh.CodeExists, "it is, holds or lies in the directory of workspace %s of tenant %s", r.Name, r.Tenant)
		}
	}
	return nil
}

// overlap says whether two clean absolute paths are one, or one is below the
// other.
func overlap(a, b string) bool {
	a, b = strings.TrimSuffix(a, "/")+"/", strings.TrimSuffix(b, "/")+"/"
	return strings.HasPrefix(a, b) || strings.HasPrefix(b, a)
}

// tryDir opens the directory as its workspace will, so that what is wrong with it
// is said to who can mend it. What a crash leaves is swept with the trash.
func (n *Node) tryDir(dir sandbox.HostDir) error {
	stage := filepath.Join(n.trashDir(), tried+mesh.NewID())
	defer os.RemoveAll(stage)
	tree, err := sandbox.OpenTree(sandbox.TreeConfig{Dir: dir.Path, Host: true, Stage: stage, UID: dir.UID, GID: dir.GID})
	if err != nil {
		return err
	}
	return tree.Close()
}

// openHostDir opens the tree of a workspace that is a directory of the host, with
// its owner as the user of files and commands. One that is not fit any more leaves
// a workspace without files, which can be given up.
func (w *workspace) openHostDir() {
	dir, err := w.node.hostDir(string(w.record.Dir))
	if err == nil && dir.Path != string(w.record.Dir) {
		err = mesh.Errorf(mesh.CodeDenied, "a symbolic link is on its way now")
	}
	if err == nil {
		w.uid, w.gid = dir.UID, dir.GID
		w.tree, err = sandbox.OpenTree(sandbox.TreeConfig{Dir: dir.Path, Host: true, Stage: w.stagePath(), UID: w.uid, GID: w.gid})
	}
	if err != nil {
		w.log.Error("the workspace's directory on the host cannot be used", "dir", string(w.record.Dir), "err", err)
		w.damage = mesh.Errorf(mesh.CodeInternal, "the directory of the host that is workspace %s cannot be used: %s; "+
			"mend that and restart the node, or give the workspace up, which keeps the directory, with: wsmesh workspace rm %s",
			w.name, mesh.AsError(err).Text, w.name)
	}
}

package node

import (
	"context"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/sandbox"
)

func (w *workspace) stat(_ context.Context, req *mesh.Request) (*mesh.Reply, error) {
	var a mesh.StatRequest
	if err := req.Args(&a); err != nil {
		return nil, err
	}
	view, path, err := w.resolve(req, a.Path)
	if err != nil {
		return nil, err
	}
	info, err := view.Stat(path, a.Follow)
	return &mesh.Reply{Args: info}, err
}

// resolve turns the path of a request into the scope's view of the tree and a
// clean path relative to the workspace.
func (w *workspace) resolve(req *mesh.Request, p mesh.Path) (*sandbox.View, string, error) {
	path, err := mesh.ResolvePath(req.Scope, string(p))
	return w.tree.View(req.Scope), path, err
}

// resolveTwo is resolve for what has an old name and gets a new one.
func (w *workspace) resolveTwo(req *mesh.Request, p, q mesh.Path) (view *sandbox.View, from, to string, err error) {
	if view, from, err = w.resolve(req, p); err != nil {
		return nil, "", "", err
	}
	to, err = mesh.ResolvePath(req.Scope, string(q))
	return view, from, to, mesh.About("the new name", err)
}

func (w *workspace) list(_ context.Context, req *mesh.Request) (*mesh.Reply, error) {
	var a mesh.ListRequest
	if err := req.Args(&a); err != nil {
		return nil, err
	}
	if a.Limit <= 0 || a.Limit > mesh.MaxList {
		a.Limit = mesh.MaxList
	}
	view, path, err := w.resolve(req, a.Path)
	if err != nil {
		return nil, err
	}
	if !w.node.lists.Take(string(w.tenant)) {
		return nil, mesh.Errorf(mesh.CodeBusy, "node %s lists as many directories as it may, at all or for one tenant; try again", w.node.cfg.Name)
	}
	defer w.node.lists.Give(string(w.tenant))
	page, err := view.List(path, string(a.After), a.Limit)
	if err != nil {
		return nil, err
	}
	return &mesh.Reply{Args: fitPage(page)}, nil
}

// fitPage cuts a page whose JSON might be larger than a message: names can be
// 255 bytes and link targets 4 KiB.
func fitPage(page mesh.ListReply) mesh.ListReply {
	size := 0
	for i, e := range page.Entries {
		size += 6*(len(e.Path)+len(e.Target)) + 200 // six: a byte as \u00xx
		if size > mesh.MaxMessage && i > 0 {
			return mesh.ListReply{Entries: page.Entries[:i], More: true}
		}
	}
	return page
}

func (w *workspace) read(_ context.Context, req *mesh.Request) (*mesh.Reply, error) {
	var a mesh.ReadRequest
	if err := req.Args(&a); err != nil {
		return nil, err
	}
	if a.Length <= 0 || a.Length > mesh.MaxMessage {
		a.Length = mesh.MaxMessage
	}
	view, path, err := w.resolve(req, a.Path)
	if err != nil {
		return nil, err
	}
	content, info, err := view.ReadAt(path, a.Offset, a.Length, a.Revision)
	return &mesh.Reply{Args: mesh.ReadReply{File: info}, Content: content}, err
}

func (w *workspace) readlink(_ context.Context, req *mesh.Request) (*mesh.Reply, error) {
	var a mesh.ReadlinkRequest
	if err := req.Args(&a); err != nil {
		return nil, err
	}
	view, path, err := w.resolve(req, a.Path)
	if err != nil {
		return nil, err
	}
	target, err := view.Readlink(path)
	return &mesh.Reply{Args: mesh.ReadlinkReply{Target: mesh.Path(target)}}, err
}

// What one node works on at a time besides short requests, so that no tenant
// keeps all processors from the others.
const (
	// DefaultMaxSearches bounds searches and greps: each keeps a processor busy
	// for up to two seconds.
	DefaultMaxSearches = 16
	// DefaultMaxBulk bounds copies, uploads being unpacked and recursive removals:
	// minutes each, and a sparse file of many GiB costs its sender nothing.
	DefaultMaxBulk = 16
	// DefaultMaxLists bounds lists, each of which reads the whole directory.
	DefaultMaxLists = 64
	// DefaultMaxEdits bounds edits of files that are larger than a message: each
	// holds its file some times.
	DefaultMaxEdits = 4
)

func (n *Node) takeBulk(t mesh.Tenant) error {
	if n.bulk.Take(string(t)) {
		return nil
	}
	return mesh.Errorf(mesh.CodeBusy, "node %s copies, unpacks and removes as much as it may, at all or for one tenant; try again", n.cfg.Name)
}

func (w *workspace) search(ctx context.Context, req *mesh.Request) (*mesh.Reply, error) {
	var a mesh.SearchRequest
	if err := req.Args(&a); err != nil {
		return nil, err
	}
	return w.look(req, a.Path, func(view *sandbox.View, path string) (any, error) { return view.Search(ctx, path, &a) })
}

func (w *workspace) grep(ctx context.Context, req *mesh.Request) (*mesh.Reply, error) {
	var a mesh.GrepRequest
	if err := req.Args(&a); err != nil {
		return nil, err
	}
	return w.look(req, a.Path, func(view *sandbox.View, path string) (any, error) { return view.Grep(ctx, path, &a) })
}

// look makes one page of a search or grep, when the node is free to.
func (w *workspace) look(req *mesh.Request, p mesh.Path, page func(*sandbox.View, string) (any, error)) (*mesh.Reply, error) {
	view, path, err := w.resolve(req, p)
	if err != nil {
		return nil, err
	}
	if !w.node.searches.Take(string(w.tenant)) {
		return nil, mesh.Errorf(mesh.CodeBusy, "node %s is searching as much as it may, at all or for one tenant; try again", w.node.cfg.Name)
	}
	defer w.node.searches.Give(string(w.tenant))
	found, err := page(view, path)
	return &mesh.Reply{Args: found}, err
}

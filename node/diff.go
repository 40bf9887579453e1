package node

import (
	"bytes"
	"context"
	"encoding/json"
	"path"
	"time"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/node/edit"
	"github.com/wsmesh/wsmesh/objstore"
	"github.com/wsmesh/wsmesh/objstore/treefs"
)

// diffTime is after what time a page of differences ends, whatever it has found.
const diffTime = 2 * time.Second

// diff makes a page of what differs between two commits.
func (n *Node) diff(ctx context.Context, t mesh.Tenant, req *mesh.Request) (*mesh.Reply, error) {
	var a mesh.DiffRequest
	if err := req.Args(&a); err != nil {
		return nil, err
	}
	record, err := n.recordOf(ctx, t, req, a.Workspace)
	if err != nil {
		return nil, err
	}
	p, err := mesh.ResolvePath(req.Scope, string(a.Path))
	if err != nil {
		return nil, err
	}
	after := ""
	if a.Cursor != "" {
		if after, err = mesh.ResolvePath(req.Scope, string(a.Cursor)); err == nil && !mesh.Inside(p, after) {
			err = mesh.Errorf(mesh.CodeInvalid, "the cursor is not one of a page of these differences; begin without one")
		}
		if err != nil {
			return nil, err
		}
	}
	if a.Limit <= 0 || a.Limit > mesh.MaxList {
		a.Limit = mesh.MaxList
	}
	if !n.searches.Take(string(t)) {
		return nil, mesh.Errorf(mesh.CodeBusy, "node %s is searching as much as it may, at all or for one tenant; try again", n.cfg.Name)
	}
	defer n.searches.Give(string(t))
	d := differ{a: &a, scope: req.Scope}
	for _, side := range []struct {
		at string
		to **viewAt
	}{{a.From, &d.before}, {a.To, &d.now}} {
		_, ref, err := n.find(ctx, &record, side.at)
		if err != nil {
			return nil, err
		}
		if *side.to, err = n.view(ctx, &record, ref); err != nil {
			return nil, err
		}
	}
	err = d.page(ctx, p, after)
	return &mesh.Reply{Args: d.reply}, err
}

// differ makes one page.
type differ struct {
	a           *mesh.DiffRequest
	scope       string
	before, now *viewAt
	reply       mesh.DiffReply
	size        int
}

func (d *differ) page(ctx context.Context, p, after string) error {
	d.reply.Entries = []mesh.DiffEntry{}
	until := time.Now().Add(diffTime)
	last := after
	for x, err := range treefs.Compare(ctx, d.before.View, d.now.View, p, after) {
		if err != nil {
			return err
		}
		e, err := d.entry(ctx, x)
		if err != nil {
			return mesh.About(path.Join(p, x.Path), err)
		}
		size := 0
		if e != nil {
			b, err := json.Marshal(e)
			if err != nil {
				return err
			}
			size = len(b) + 1
		}
		full := len(d.reply.Entries) == d.a.Limit || d.size+size > mesh.MaxMessage-2*mesh.MaxPathBytes && d.size > 0
		if last != "" && (full && e != nil || time.Now().After(until)) {
			d.reply.Next = mesh.Below(d.scope, mesh.Path(last))
			return nil
		}
		if e != nil {
			d.reply.Entries = append(d.reply.Entries, *e)
			d.size += size
		}
		last = x.Path
	}
	return nil
}

// entry is a difference as people see it; nil is none.
func (d *differ) entry(ctx context.Context, x treefs.Difference) (*mesh.DiffEntry, error) {
	old, err := d.before.File(ctx, x.Old)
	if err != nil {
		return nil, err
	}
	now, err := d.now.File(ctx, x.New)
	if err != nil {
		return nil, err
	}
	e := &mesh.DiffEntry{Path: mesh.Below(d.scope, mesh.Path(x.Path))}
	if old != nil {
		e.OldType, e.OldSize, e.OldMode = old.Type.String(), old.Size, old.Mode
	}
	if now != nil {
		e.Type, e.Size, e.Mode = now.Type.String(), now.Size, now.Mode
	}
	switch {
	case old == nil:
		e.Kind = mesh.DiffAdded
	case now == nil:
		e.Kind = mesh.DiffRemoved
	case old.Type != now.Type:
		e.Kind = mesh.DiffType
	case !treefs.SameContent(old, now):
		e.Kind = mesh.DiffChanged
	case !treefs.SameMode(old, now):
		e.Kind = mesh.DiffMode
		return e, nil
	default:
		return nil, nil
	}
	if d.a.Text {
		err = d.text(ctx, e, old, now)
	}
	return e, err
}

// text adds the unified diff of a text file.
func (d *differ) text(ctx context.Context, e *mesh.DiffEntry, old, now *objstore.Entry) error {
	var sides [2]string
	found := false
	for i, side := range []struct {
		view *viewAt
		file *objstore.Entry
	}{{d.before, old}, {d.now, now}} {
		if side.file == nil || side.file.Type != objstore.TypeFile {
			continue
		}
		found = true
		b, err := side.view.Content(ctx, side.file, mesh.MaxDiffFile)
		if err != nil {
			return err
		}
		if b == nil {
			e.Cut = true
			return nil
		}
		if bytes.IndexByte(b[:min(len(b), binaryProbe)], 0) >= 0 {
			e.Binary = true
			return nil
		}
		sides[i] = string(b)
	}
	if !found {
		return nil
	}
	all, _, _ := edit.Diff(string(e.Path), sides[0], sides[1])
	diff := cutLines(all, mesh.MaxDiffText)
	e.Diff, e.Cut = mesh.Text(diff), len(diff) < len(all)
	return nil
}

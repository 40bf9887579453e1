package sandbox

import (
	"context"
	"encoding/json"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/wsmesh/wsmesh/mesh"
)

// maxReply bounds the JSON of a page's entries, with room for its other fields,
// the largest of which is the path of its cursor.
const maxReply = mesh.MaxMessage - 6*maxCursor - 1<<10

// Search returns a page of the names below the directory at path, which is what
// the request's Path leads to. See mesh.SearchRequest; with it:
//
//   - A page ends early when it is full in bytes, has looked at DefaultSearchEntries
//     names or has taken DefaultSearchTime. Each goes on where the one before ended,
//     so that there is an end; nothing is kept between them.
//   - It is not a snapshot. What vanishes meanwhile is left out, as is what is
//     below a directory that may not be read, and what has a path of more than
//     mesh.MaxPathBytes.
//   - Directories of more than 10,000,000 entries are CodeTooLarge; exclude
//     them.
//
// A glob that can match nothing is CodeInvalid, as is one whose braces make too
// many alternatives, and a cursor of another search.
func (v *View) Search(ctx context.Context, path string, req *mesh.SearchRequest) (mesh.SearchReply, error) {
	s := searcher{View: v, path: path, req: req, limit: req.Limit}
	if s.limit == 0 {
		s.limit = mesh.MaxList
	}
	if s.limit < 0 || s.limit > mesh.MaxList {
		return mesh.SearchReply{}, mesh.Errorf(mesh.CodeInvalid, "search limit %d: use 1 to %d", req.Limit, mesh.MaxList)
	}
	types := []string{"", TypeFile, TypeDir, TypeSymlink, TypeFifo, TypeSocket, TypeDevice}
	if !slices.Contains(types, req.Type) {
		return mesh.SearchReply{}, mesh.Errorf(mesh.CodeInvalid, "search type %.60q: use file, dir, symlink, fifo, socket or device", req.Type)
	}
	sel, err := newSelection(&req.Selection)
	if err != nil {
		return mesh.SearchReply{}, err
	}
	if err := v.tree.enter(); err != nil {
		return mesh.SearchReply{}, err
	}
	defer v.tree.leave()
	done, err := v.tree.admit(ctx)
	if err != nil {
		return mesh.SearchReply{}, err
	}
	defer done()
	s.reply.Entries = []mesh.FileInfo{}
	if err := s.run(ctx, sel); err != nil {
		return mesh.SearchReply{}, failed(err)
	}
	return s.reply, nil
}

// searcher makes one page of a search.
type searcher struct {
	*View
	path  string
	req   *mesh.SearchRequest
	limit int
	reply mesh.SearchReply
	bytes int
}

func (s *searcher) run(ctx context.Context, sel *selection) error {
	at, err := s.find(s.path, true)
	if err != nil {
		return err
	}
	defer at.close()
	if at.kind() != unix.S_IFDIR {
		return unix.ENOTDIR
	}
	visit, err := s.tree.newVisit(ctx, at.obj, s.path, sel)
	if err != nil {
		return err
	}
	defer visit.close()
	if s.req.Cursor != "" {
		rel, err := s.fromCursor(s.path, string(s.req.Cursor))
		if err != nil {
			return err
		}
		if err := visit.resume(rel, false); err != nil {
			return err
		}
	}
	for !visit.ended {
		before := visit.cursor
		f, err := visit.step()
		if err != nil {
			return err
		}
		fits := true
		if f != nil {
			if fits, err = s.add(f, sel); err != nil {
				return err
			}
		}
		if !fits {
			s.reply.Next = s.toCursor(s.path, before)
			return nil
		}
		if !visit.ended && (len(s.reply.Entries) >= s.limit || visit.spent()) {
			s.reply.Next = s.toCursor(s.path, visit.cursor)
			return nil
		}
	}
	return nil
}

// add takes the name into the page if it was asked for; false when it does not
// fit.
func (s *searcher) add(f *found, sel *selection) (bool, error) {
	if s.req.Type != "" && s.req.Type != typeOf(&f.st) || !sel.includes(f.rel) {
		return true, nil
	}
	info, err := describeEntry(f.dir, f.name)
	if err != nil {
		return true, ifVanished(err)
	}
	if s.req.Type != "" && s.req.Type != info.Type {
		return true, nil
	}
	info.Path = s.Shown(join(s.path, f.rel))
	size := jsonBytes(info)
	if s.bytes+size > maxReply && len(s.reply.Entries) > 0 {
		return false, nil
	}
	s.bytes += size
	s.reply.Entries = append(s.reply.Entries, info)
	return true, nil
}

// jsonBytes is what an element of a list takes in a message.
func jsonBytes(v any) int {
	b, err := json.Marshal(v)
	if err != nil {
		return maxReply
	}
	return len(b) + 1
}

// toCursor makes a cursor, relative to the scope, of that of a visit below path.
func (v *View) toCursor(path, cursor string) mesh.Path {
	done := strings.HasSuffix(cursor, "/")
	p := v.Shown(join(path, strings.TrimSuffix(cursor, "/")))
	if done {
		p += "/"
	}
	return p
}

// fromCursor is its inverse.
func (v *View) fromCursor(path, cursor string) (string, error) {
	top := string(v.Shown(path))
	if top == "." {
		return cursor, nil
	}
	rel, ok := strings.CutPrefix(cursor, top+"/")
	if !ok {
		return "", mesh.Errorf(mesh.CodeInvalid, "cursor %.200q was not returned by this search", cursor)
	}
	return rel, nil
}

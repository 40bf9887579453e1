package client

import (
	"context"
	"iter"

	"github.com/wsmesh/wsmesh/mesh"
)

// Search yields the names below req.Path that the selection names, sorted by
// path; each entry's path is relative to the scope. It asks page by page, so a
// tree that changes meanwhile may show some changes and not others. Stop ranging
// to stop searching; an error is the last that is yielded. Cursor and Limit of the
// request are used as they are given: where to begin, and how much one page holds.
// CodeInvalid: a glob that is none.
func (w *Workspace) Search(ctx context.Context, req mesh.SearchRequest) iter.Seq2[mesh.FileInfo, error] {
	return func(yield func(mesh.FileInfo, error) bool) {
		ctx, op := w.reads(ctx, "search", string(req.Path))
		req := req // each ranging begins anew
		whole(op, pages(func() ([]mesh.FileInfo, bool, error) {
			page, err := w.SearchPage(ctx, req)
			req.Cursor = page.Next
			return page.Entries, page.Next != "", err
		}), yield)
	}
}

// SearchPage asks for one page of a search: for callers that hand the cursor on. A
// page can be empty and not the last; the last has no Next.
func (w *Workspace) SearchPage(ctx context.Context, req mesh.SearchRequest) (mesh.SearchReply, error) {
	ctx, op := w.reads(ctx, "search", string(req.Path))
	var page mesh.SearchReply
	_, err := w.request(ctx, call{verb: mesh.VerbSearch, args: req, reads: true}, &page)
	return page, op.end(err)
}

// Grep yields the matches that req asks for, by path and line. It asks page by
// page, as Search does. CodeInvalid: Pattern is no regular expression.
func (w *Workspace) Grep(ctx context.Context, req mesh.GrepRequest) iter.Seq2[mesh.GrepMatch, error] {
	return func(yield func(mesh.GrepMatch, error) bool) {
		ctx, op := w.reads(ctx, "grep", string(req.Path))
		req := req
		whole(op, pages(func() ([]mesh.GrepMatch, bool, error) {
			page, err := w.GrepPage(ctx, req)
			req.Cursor = page.Next
			return page.Matches, page.Next != nil, err
		}), yield)
	}
}

// GrepPage asks for one page of a grep, as SearchPage does. It also counts the
// files that were read and skipped.
func (w *Workspace) GrepPage(ctx context.Context, req mesh.GrepRequest) (mesh.GrepReply, error) {
	ctx, op := w.reads(ctx, "grep", string(req.Path))
	var page mesh.GrepReply
	_, err := w.request(ctx, call{verb: mesh.VerbGrep, args: req, reads: true}, &page)
	return page, op.end(err)
}

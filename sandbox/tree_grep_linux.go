package sandbox

import (
	"bufio"
	"context"
	"regexp"
	"regexp/syntax"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/wsmesh/wsmesh/mesh"
)

const (
	// maxLine is how much of a line is matched.
	maxLine = 1 << 20
	// maxProgram bounds the instructions a pattern compiles to, and lineWork
	// their product with the bytes of a line that are matched, which is the most
	// steps one match takes: a second or so in the worst case, and nothing can
	// interrupt it.
	maxProgram = 1 << 15
	lineWork   = 1 << 28
	// binaryHead is how much of a file is searched for a NUL byte.
	binaryHead = 8 << 10
)

// Grep returns a page of the matches in the file at path, or in the files below
// the directory there, as the request's Path leads to. See mesh.GrepRequest,
// and for its pages Search; with it:
//
//   - A page ends early after DefaultGrepBytes too.
//   - Of a line the first 1 MiB is matched, and less if the pattern is a large
//     one. Context ends at a longer line and does not hold it.
//   - Files that cannot be opened or read are counted as Skipped. What the
//     tenant writes meanwhile may be found or not.
//   - With PerFile, and with GrepFiles, a file's rest is not read after its last
//     match that counts.
//
// A pattern that is no RE2, too long or too large is CodeInvalid.
func (v *View) Grep(ctx context.Context, path string, req *mesh.GrepRequest) (mesh.GrepReply, error) {
	g := grepper{View: v, ctx: ctx, path: path, req: *req}
	if err := g.complete(); err != nil {
		return mesh.GrepReply{}, err
	}
	if err := v.tree.enter(); err != nil {
		return mesh.GrepReply{}, err
	}
	defer v.tree.leave()
	done, err := v.tree.admit(ctx)
	if err != nil {
		return mesh.GrepReply{}, err
	}
	defer done()
	g.reply.Matches = []mesh.GrepMatch{}
	g.in = bufio.NewReaderSize(nil, maxLine+2)
	if err := g.run(); err != nil {
		return mesh.GrepReply{}, failed(err)
	}
	return g.reply, nil
}

// grepper makes one page of a grep.
type grepper struct {
	*View
	ctx  context.Context
	path string
	req  mesh.GrepRequest
	sel  *selection
	re   *regexp.Regexp

	size      int // instructions of re
	lineBytes int // of a line that are matched

	visit *visit
	in    *bufio.Reader
	reply mesh.GrepReply
	bytes int   // of the reply
	read  int64 // of files
	work  int   // steps of matching since the clock was looked at
	late  bool
}

// complete checks the request and puts its defaults in place.
func (g *grepper) complete() error {
	r := &g.req
	if r.Mode == "" {
		r.Mode = mesh.GrepLines
	}
	if r.Limit == 0 {
		r.Limit = mesh.MaxMatches
	}
	switch {
	case !slices.Contains([]string{mesh.GrepLines, mesh.GrepFiles, mesh.GrepCounts}, r.Mode):
		return mesh.Errorf(mesh.CodeInvalid, "grep mode %.60q: use lines, files or counts", r.Mode)
	case r.Limit < 0 || r.Limit > mesh.MaxMatches:
		return mesh.Errorf(mesh.CodeInvalid, "grep limit %d: use 1 to %d", r.Limit, mesh.MaxMatches)
	case r.Before < 0 || r.Before > mesh.MaxContext || r.After < 0 || r.After > mesh.MaxContext:
		return mesh.Errorf(mesh.CodeInvalid, "grep context of %d and %d lines: use 0 to %d", r.Before, r.After, mesh.MaxContext)
	case r.PerFile < 0:
		return mesh.Errorf(mesh.CodeInvalid, "grep with %d matches of a file: use 1 or more, or 0 for all", r.PerFile)
	case len(r.Pattern) > mesh.MaxPattern:
		return mesh.Errorf(mesh.CodeInvalid, "grep pattern of %d bytes: use at most %d", len(r.Pattern), mesh.MaxPattern)
	}
	if r.Mode != mesh.GrepLines {
		r.Before, r.After = 0, 0
	}
	if r.Mode == mesh.GrepFiles {
		r.PerFile = 1
	}
	var err error
	if g.sel, err = newSelection(&r.Selection); err != nil {
		return err
	}
	return g.compile()
}

func (g *grepper) compile() error {
	pattern := g.req.Pattern
	if g.req.Literal {
		pattern = regexp.QuoteMeta(pattern)
	}
	// Parsed before anything is put in front of it, so that it stands by itself.
	tree, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		return mesh.Errorf(mesh.CodeInvalid, "grep pattern %.200q: %v", g.req.Pattern, err)
	}
	if g.size = programSize(tree); g.size > maxProgram {
		return mesh.Errorf(mesh.CodeInvalid, "grep pattern %.200q: its repetitions make it too large", g.req.Pattern)
	}
	if g.req.IgnoreCase {
		pattern = "(?i)" + pattern
	}
	if g.re, err = regexp.Compile(pattern); err != nil {
		return mesh.Errorf(mesh.CodeInvalid, "grep pattern %.200q: %v", g.req.Pattern, err)
	}
	g.lineBytes = min(maxLine, lineWork/g.size)
	return nil
}

// programSize is at least about the number of instructions re compiles to, and
// at most about 2^20: compiling a hostile pattern to count them would take
// 100 MB.
func programSize(re *syntax.Regexp) int {
	n := 1 + len(re.Rune)
	if re.Op == syntax.OpCharClass {
		n = 1
	}
	for _, sub := range re.Sub {
		n = min(n+programSize(sub), 1<<20)
	}
	switch re.Op {
	case syntax.OpRepeat:
		n *= max(1, re.Min, re.Max)
	case syntax.OpStar, syntax.OpPlus, syntax.OpQuest, syntax.OpCapture, syntax.OpAlternate:
		n += 1 + len(re.Sub)
	}
	return min(n, 1<<20)
}

func (g *grepper) run() error {
	at, err := g.find(g.path, true)
	if err != nil {
		return err
	}
	defer at.close()
	if at.kind() != unix.S_IFDIR {
		return g.onlyFile(at)
	}
	if g.visit, err = g.tree.newVisit(g.ctx, at.obj, g.path, g.sel); err != nil {
		return err
	}
	defer g.visit.close()
	cur := g.req.Cursor
	if cur != nil {
		rel, err := g.fromCursor(g.path, string(cur.Path))
		if err != nil {
			return err
		}
		if err := g.visit.resume(rel, cur.Offset >= 0); err != nil {
			return err
		}
	}
	for !g.visit.ended {
		before := g.visit.cursor
		f, err := g.visit.step()
		if err != nil {
			return err
		}
		if f != nil && typeOf(&f.st) == TypeFile && g.sel.includes(f.rel) {
			begin := mesh.GrepCursor{Path: g.Shown(join(g.path, f.rel)), Line: 1}
			if cur != nil && cur.Offset >= 0 && cur.Path == begin.Path {
				begin, cur = *cur, nil
			}
			if err := g.found(f, begin, g.behind(before)); err != nil || g.reply.Next != nil {
				return err
			}
		}
		if !g.visit.ended && (g.spent() || len(g.reply.Matches) >= g.req.Limit) {
			g.reply.Next = g.behind(g.visit.cursor)
			return nil
		}
	}
	return nil
}

func (g *grepper) behind(cursor string) *mesh.GrepCursor {
	return &mesh.GrepCursor{Path: g.toCursor(g.path, cursor), Offset: -1}
}

// onlyFile greps the file the request names.
func (g *grepper) onlyFile(at *place) error {
	if err := checkRegular(&at.st); err != nil {
		return err
	}
	begin := mesh.GrepCursor{Path: g.Shown(g.path), Line: 1}
	if cur := g.req.Cursor; cur != nil {
		if cur.Path != begin.Path || cur.Offset < 0 {
			return mesh.Errorf(mesh.CodeInvalid, "cursor %.200q was not returned by this grep", cur.Path)
		}
		begin = *cur
	}
	g.visit = &visit{tree: g.tree, ctx: g.ctx, until: g.tree.deadline()}
	return g.grepFile(at.obj, begin, nil)
}

// found greps the file a visit has found. Where the whole file does not fit into
// the page any more, the page ends at before.
func (g *grepper) found(f *found, begin mesh.GrepCursor, before *mesh.GrepCursor) error {
	obj, err := openAt(f.dir, f.name, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		return ifVanished(err)
	}
	defer unix.Close(obj)
	if err := unix.Fstat(obj, &f.st); err != nil {
		return err
	}
	if typeOf(&f.st) != TypeFile {
		return nil
	}
	return g.grepFile(obj, begin, before)
}

// spent says that the page has done enough.
func (g *grepper) spent() bool {
	return g.late || g.read >= g.tree.paging.bytes || g.visit.spent()
}

// add takes a match into the page; false when it does not fit.
func (g *grepper) add(m mesh.GrepMatch) bool {
	size := jsonBytes(m)
	if g.bytes+size > maxReply && len(g.reply.Matches) > 0 {
		return false
	}
	g.bytes += size
	g.reply.Matches = append(g.reply.Matches, m)
	return true
}

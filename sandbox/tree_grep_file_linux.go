package sandbox

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/wsmesh/wsmesh/mesh"
)

// workStep is after how many steps of matching, at most, the clock is looked at.
const workStep = 1 << 22

// fileGrep goes through the lines of one file.
//
// A page that ends in the file leaves a cursor at the first line that a later
// match may have before it, and says in Done up to where the lines are only
// that. One that ends in a line whose rest is passed over has -Line.
type fileGrep struct {
	*grepper
	path mesh.Path
	file *os.File

	offset, line int64 // of the line that is read next
	done, count  int64 // lines that were matched, and how many did match
	fresh        bool  // this page has matched a line

	ring    []contextLine  // the lines before, as many as a match shows
	pending []pendingMatch // matches whose lines after are not all read
	over    bool           // the file's other matches do not count
	next    *mesh.GrepCursor
}

type contextLine struct {
	offset int64
	text   mesh.Text
}

// pendingMatch is a match and where to go on to find it again, should it not fit
// into the page.
type pendingMatch struct {
	mesh.GrepMatch
	again mesh.GrepCursor
}

// grepFile greps what obj, known to be a regular file, is open on. When the page
// ends with it, reply.Next is set; before is for a file of which nothing fits.
func (g *grepper) grepFile(obj int, begin mesh.GrepCursor, before *mesh.GrepCursor) error {
	fd, err := openRegular(obj)
	if errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) {
		return err
	}
	if err != nil {
		g.skip()
		return nil
	}
	s := fileGrep{
		grepper: g, path: begin.Path, file: os.NewFile(uintptr(fd), "searched"),
		offset: begin.Offset, line: begin.Line, done: begin.Done, count: begin.Count,
	}
	defer s.file.Close()
	head := make([]byte, binaryHead)
	n, err := s.file.ReadAt(head, 0)
	if err == nil || errors.Is(err, io.EOF) {
		_, err = s.file.Seek(s.offset, io.SeekStart)
	}
	if err != nil || bytes.IndexByte(head[:n], 0) >= 0 {
		g.skip()
		return nil
	}
	g.in.Reset(s.file)
	err = s.run()
	switch {
	case errors.Is(err, errUnread):
		g.skip()
		return nil
	case err != nil || g.reply.Next != nil:
		return err
	case s.next != nil:
		g.reply.Next = s.next
		return nil
	}
	s.end(before)
	return nil
}

// errUnread says that the host could not read on.
var errUnread = errors.New("the file cannot be read")

// skip counts a file that is not searched.
func (g *grepper) skip() {
	g.reply.Files++
	g.reply.Skipped++
}

// end finishes a file that was read as far as it is asked for.
func (s *fileGrep) end(before *mesh.GrepCursor) {
	if s.count > 0 && s.req.Mode != mesh.GrepLines {
		m := mesh.GrepMatch{Path: s.path}
		if s.req.Mode == mesh.GrepCounts {
			m.Count = s.count
		}
		if !s.add(m) {
			s.reply.Next = before
			return
		}
	}
	s.reply.Files++
}

// run reads lines until the file, or what is asked for of it, or the page ends.
func (s *fileGrep) run() error {
	if s.line < 0 {
		number := -s.line
		s.line, s.done = number+1, max(s.done, number)
		if err := s.passLine(number); err != nil {
			return err
		}
	}
	for !s.over && s.next == nil || len(s.pending) > 0 {
		raw, err := s.in.ReadSlice('\n')
		if len(raw) == 0 && errors.Is(err, io.EOF) {
			s.flush(true)
			return nil
		}
		part := errors.Is(err, bufio.ErrBufferFull)
		if err != nil && !part && !errors.Is(err, io.EOF) {
			return errUnread
		}
		if err := s.oneLine(raw, part); err != nil || s.reply.Next != nil {
			return err
		}
	}
	return nil
}

// oneLine takes in a line, or with part the beginning of a long one.
func (s *fileGrep) oneLine(raw []byte, part bool) error {
	number, start := s.line, s.offset
	s.line++
	s.pass(len(raw))
	if err := s.tick(); err != nil {
		return err
	}
	text := trimEnd(raw)
	long := part || len(text) > maxLine
	for i := range s.pending {
		if !long {
			s.pending[i].After = append(s.pending[i].After, cutText(text))
		}
	}
	if s.flush(long); s.reply.Next != nil {
		return nil
	}
	if !s.over && s.next == nil && number > s.done {
		s.match(text, number, start, long)
		s.done, s.fresh = number, true
		if s.flush(long); s.reply.Next != nil {
			return nil
		}
	}
	s.remember(text, start, long)
	if s.over || s.next != nil {
		return nil
	}
	full := s.req.Mode == mesh.GrepLines && len(s.reply.Matches)+len(s.pending) >= s.req.Limit
	if full || s.fresh && s.spent() {
		s.stop(number, part)
		return nil
	}
	if part {
		return s.passLine(number)
	}
	return nil
}

// match matches the line and keeps what it finds.
func (s *fileGrep) match(text []byte, number, start int64, long bool) {
	seen := text[:min(len(text), s.lineBytes)]
	s.work += (len(seen) + 64) * s.size
	at := s.re.FindIndex(seen)
	if at == nil {
		return
	}
	if s.req.Mode == mesh.GrepLines {
		m := pendingMatch{
			GrepMatch: mesh.GrepMatch{Path: s.path, Line: number, Column: at[0] + 1},
			again:     mesh.GrepCursor{Path: s.path, Offset: start, Line: number, Done: number - 1, Count: s.count},
		}
		m.Text, m.Cut = window(text, at[0], at[1])
		m.Cut = m.Cut || long
		if n := len(s.ring); n > 0 {
			m.again.Offset, m.again.Line = s.ring[0].offset, number-int64(n)
		}
		for _, l := range s.ring {
			m.Before = append(m.Before, l.text)
		}
		s.pending = append(s.pending, m)
	}
	s.count++
	s.over = s.req.PerFile > 0 && s.count >= int64(s.req.PerFile)
}

// flush takes the first pending matches that have all their lines, or with all
// every one, into the page, until one does not fit: then the page ends at it.
func (s *fileGrep) flush(all bool) {
	for len(s.pending) > 0 {
		m := &s.pending[0]
		if !all && len(m.After) < s.req.After {
			return
		}
		if !s.add(m.GrepMatch) {
			s.reply.Next = &m.again
			return
		}
		s.pending = s.pending[1:]
	}
}

// remember keeps the line for matches to come.
func (s *fileGrep) remember(text []byte, start int64, long bool) {
	if long || s.req.Before == 0 {
		s.ring = s.ring[:0]
		return
	}
	if len(s.ring) == s.req.Before {
		s.ring = s.ring[:copy(s.ring, s.ring[1:])]
	}
	s.ring = append(s.ring, contextLine{start, cutText(text)})
}

// stop ends the matching of this page behind the line number, or with part in
// it.
func (s *fileGrep) stop(number int64, part bool) {
	c := mesh.GrepCursor{Path: s.path, Offset: s.offset, Line: s.line, Done: number, Count: s.count}
	if n := len(s.ring); n > 0 {
		c.Offset, c.Line = s.ring[0].offset, s.line-int64(n)
	}
	if part {
		c.Line = -number
	}
	s.next = &c
}

// passLine passes over the rest of the line number. Holes hold no end of a line
// and are not read.
func (s *fileGrep) passLine(number int64) error {
	for {
		raw, err := s.in.ReadSlice('\n')
		s.pass(len(raw))
		if err == nil || errors.Is(err, io.EOF) {
			return nil
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return errUnread
		}
		data, err := unix.Seek(int(s.file.Fd()), s.offset, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			data, err = unix.Seek(int(s.file.Fd()), 0, io.SeekEnd)
		}
		if err == nil && data > s.offset {
			s.offset = data
			s.in.Reset(s.file)
		}
		if err := s.tick(); err != nil {
			return err
		}
		if s.spent() {
			s.stop(number, true)
			return nil
		}
	}
}

// pass accounts for bytes that were read.
func (s *fileGrep) pass(n int) {
	s.offset += int64(n)
	s.read += int64(n)
	s.work += n
}

// tick looks at the clock and at who may have stopped the page, now and then.
func (g *grepper) tick() error {
	if g.work < workStep {
		return nil
	}
	g.work = 0
	g.late = g.visit.late()
	return g.visit.stopped()
}

// trimEnd returns the line without "\n" or "\r\n".
func trimEnd(raw []byte) []byte {
	text, ended := bytes.CutSuffix(raw, []byte("\n"))
	if ended {
		text = bytes.TrimSuffix(text, []byte("\r"))
	}
	return text
}

// window cuts what is around the match from a long line, at whole runes.
func window(line []byte, from, to int) (mesh.Text, bool) {
	const most = mesh.MaxMatchText
	if len(line) <= most {
		return mesh.Text(line), false
	}
	lo := from - (most-min(to-from, most))/2
	lo = max(0, min(lo, len(line)-most))
	hi := lo + most
	for i := 0; i < utf8.UTFMax-1 && lo > 0 && lo < from && !utf8.RuneStart(line[lo]); i++ {
		lo++
	}
	return mesh.Text(line[lo:runeEnd(line, hi)]), true
}

// cutText is the beginning of a line, as context shows it.
func cutText(line []byte) mesh.Text {
	return mesh.Text(line[:runeEnd(line, mesh.MaxContextText)])
}

// runeEnd is end, or somewhat less to cut the text between two runes.
func runeEnd(line []byte, end int) int {
	if end >= len(line) {
		return len(line)
	}
	for i := range utf8.UTFMax - 1 {
		if end-i > 0 && utf8.RuneStart(line[end-i]) {
			return end - i
		}
	}
	return end
}

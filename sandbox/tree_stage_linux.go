package sandbox

import (
	"errors"
	"os"
	"slices"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/wsmesh/wsmesh/mesh"
)

// maxSpans bounds how many separate pieces of one staged file are remembered:
// parts are expected nearly in order, with a few in flight.
const maxSpans = 4096

// staged is a file that arrives in parts. Its fields are guarded by Tree.mu;
// the file is written outside of it. It is open only while a part is written: a
// tenant has many workspaces, and all of a process share its descriptors.
type staged struct {
	tmp     string
	have    []span // what has arrived: sorted, apart from each other
	writers int    // parts being written
	sealed  bool   // complete and read or committed: takes no more parts
	touched time.Time
}

// span is a range of bytes, hi not in it.
type span struct{ lo, hi int64 }

// StageWrite writes one part of a file that StageCommit puts in place once it
// is complete. id is a UUID of the client; its first part opens the stage.
// Parts may come in any order, repeatedly and concurrently; offset is in bytes.
// CodeBusy when DefaultMaxStages are open, CodeConflict once the file was read or
// committed, CodeTooLarge for an offset no file has, CodeQuota on a full disk.
// A stage no call has touched for StageIdle is dropped.
func (t *Tree) StageWrite(id string, offset int64, data []byte) error {
	if err := t.enter(); err != nil {
		return err
	}
	defer t.leave()
	if err := checkStageID(id); err != nil {
		return err
	}
	end := offset + int64(len(data))
	if offset < 0 || end < offset {
		return mesh.Errorf(mesh.CodeInvalid, "staged write: offset %d is out of range", offset)
	}
	s, err := t.beginPart(id)
	if err != nil {
		return failed(err)
	}
	err = t.writePart(id, s, offset, data)
	t.mu.Lock()
	defer t.mu.Unlock()
	s.writers--
	s.touched = time.Now()
	if err != nil {
		return failed(err)
	}
	have := addSpan(s.have, span{offset, end})
	if len(have) > maxSpans {
		return mesh.Errorf(mesh.CodeInvalid, "staged write: more than %d separate pieces; send the parts in order", maxSpans)
	}
	s.have = have
	return nil
}

func (t *Tree) writePart(id string, s *staged, offset int64, data []byte) error {
	f, err := t.openStaged(id, s, unix.O_WRONLY)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(data, offset)
	return errors.Join(err, f.Close())
}

// openStaged opens a staged file, which was dropped where it is missing.
func (t *Tree) openStaged(id string, s *staged, flags int) (*os.File, error) {
	fd, err := openAt(t.stage, s.tmp, flags|unix.O_NOFOLLOW, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil, errNoStage(id)
	}
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "staged"), nil
}

func checkStageID(id string) error {
	if _, err := uuid.Parse(id); err != nil || len(id) != 36 {
		return mesh.Errorf(mesh.CodeInvalid, "staged write id %.60q is not a UUID", id)
	}
	return nil
}

func errNoStage(id string) error {
	return mesh.Errorf(mesh.CodeNotFound, "staged write %.60s is not known here (any more); start over", id)
}

// beginPart counts a writer of the stage, which is made if it is missing.
func (t *Tree) beginPart(id string) (*staged, error) {
	s, err := t.joinStage(id, nil)
	if s != nil || err != nil {
		return s, err
	}
	t.dropIdle()
	f, tmp, err := t.temp()
	if err != nil {
		return nil, err
	}
	f.Close()
	made := &staged{tmp: tmp}
	s, err = t.joinStage(id, made)
	if s != made {
		t.dropStaged(made)
	}
	return s, err
}

// joinStage counts a writer of the stage id, which is made if there is none.
func (t *Tree) joinStage(id string, made *staged) (*staged, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.stages[id]
	switch {
	case s == nil && made == nil:
		return nil, nil
	case s == nil && len(t.stages) >= DefaultMaxStages:
		return nil, mesh.Errorf(mesh.CodeBusy, "%d staged writes are open; finish or drop one", DefaultMaxStages)
	case s == nil:
		s = made
		t.stages[id] = s
		t.armSweep()
	case s.sealed:
		return nil, mesh.Errorf(mesh.CodeConflict, "staged write %.60s is complete and in use", id)
	}
	s.writers++
	s.touched = time.Now()
	return s, nil
}

// seal returns the stage if all of its size bytes have arrived; from then on
// its content is fixed, so that what was read is what is committed.
func (t *Tree) seal(id string, size int64) (*staged, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.stages[id]
	if s == nil {
		return nil, errNoStage(id)
	}
	if s.writers > 0 {
		return nil, mesh.Errorf(mesh.CodeBusy, "parts of staged write %.60s are still being written", id)
	}
	if whole := []span{{0, size}}; size != 0 && !slices.Equal(s.have, whole) || size == 0 && len(s.have) > 0 {
		return nil, mesh.Errorf(mesh.CodeInvalid, "staged write %.60s: what arrived is not the %d bytes from 0 on", id, size)
	}
	s.sealed = true
	s.touched = time.Now()
	return s, nil
}

// StageOpen opens a staged file for reading when it is complete, and fixes its
// content. Errors as those of StageCommit. The caller closes the file, which
// stays good when the stage is committed or dropped.
func (t *Tree) StageOpen(id string, size int64) (*os.File, error) {
	if err := t.enter(); err != nil {
		return nil, err
	}
	defer t.leave()
	s, err := t.seal(id, size)
	if err != nil {
		return nil, err
	}
	f, err := t.openStaged(id, s, unix.O_RDONLY)
	return f, failed(err)
}

// StageCommit puts a staged file of size bytes at path as Write would, and
// forgets the stage. An id that is not known is CodeNotFound, a hole or another
// size CodeInvalid, parts still being written CodeBusy. After a failure the
// stage is still there, to be committed again or dropped. Two commits of one id
// at a time: one of them succeeds.
func (v *View) StageCommit(id string, size int64, path string, opt WriteOptions) (Info, error) {
	t := v.tree
	if err := t.enter(); err != nil {
		return Info{}, err
	}
	defer t.leave()
	s, err := t.seal(id, size)
	if err != nil {
		return Info{}, err
	}
	t.mu.Lock()
	mine := t.stages[id] == s
	if mine {
		delete(t.stages, id)
	}
	t.mu.Unlock()
	if !mine {
		return Info{}, errNoStage(id)
	}
	f, err := t.openStaged(id, s, unix.O_RDWR)
	if err == nil {
		var info Info
		info, err = v.install(f, Change{Temp: s.tmp}, path, opt)
		f.Close()
		if err == nil {
			return info, nil
		}
	}
	t.keepStage(id, s)
	return Info{}, failed(err)
}

// keepStage puts back what could not be committed, unless the client has
// started over meanwhile.
func (t *Tree) keepStage(id string, s *staged) {
	t.mu.Lock()
	kept := t.stages[id] == nil
	if kept {
		s.touched = time.Now()
		t.stages[id] = s
		t.armSweep()
	}
	t.mu.Unlock()
	if !kept {
		t.dropStaged(s)
	}
}

// StageDrop forgets a staged file; none of that id is fine.
func (t *Tree) StageDrop(id string) {
	if t.enter() != nil {
		return
	}
	defer t.leave()
	t.mu.Lock()
	s := t.stages[id]
	delete(t.stages, id)
	t.mu.Unlock()
	if s != nil {
		t.dropStaged(s)
	}
}

// dropStaged removes a file that is in stages no more. A part being written
// goes to a file without a name, or finds none.
func (t *Tree) dropStaged(s *staged) {
	_ = unix.Unlinkat(t.stage, s.tmp, 0)
}

func (t *Tree) dropIdle() {
	var idle []*staged
	t.mu.Lock()
	now := time.Now()
	for id, s := range t.stages {
		if s.writers == 0 && now.Sub(s.touched) >= t.idle {
			delete(t.stages, id)
			idle = append(idle, s)
		}
	}
	t.mu.Unlock()
	for _, s := range idle {
		t.dropStaged(s)
	}
}

// armSweep is called with mu held. There is a sweep as long as there are
// stages; one that starts after Close does nothing.
func (t *Tree) armSweep() {
	if t.sweep != nil || t.closed {
		return
	}
	t.sweep = time.AfterFunc(t.idle/2+time.Millisecond, func() {
		if t.enter() != nil {
			return
		}
		defer t.leave()
		t.dropIdle()
		t.mu.Lock()
		defer t.mu.Unlock()
		t.sweep = nil
		if len(t.stages) > 0 {
			t.armSweep()
		}
	})
}

// addSpan adds a range to a set of sorted ranges that neither meet nor overlap.
func addSpan(have []span, s span) []span {
	if s.lo == s.hi {
		return have
	}
	from, _ := slices.BinarySearchFunc(have, s.lo, func(h span, lo int64) int {
		if h.hi < lo {
			return -1
		}
		return 1
	})
	to := from
	for to < len(have) && have[to].lo <= s.hi {
		s.lo, s.hi = min(s.lo, have[to].lo), max(s.hi, have[to].hi)
		to++
	}
	return slices.Replace(slices.Clone(have), from, to, s)
}

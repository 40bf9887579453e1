package dirtree

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wsmesh/wsmesh/mesh"
)

const (
	// watched is what may change a name, a file or an attribute. A file that is still
	// open for writing is told by the write, and a mapping of it by its end.
	watched = unix.FAN_CREATE | unix.FAN_DELETE | unix.FAN_MOVED_FROM | unix.FAN_MOVED_TO |
		unix.FAN_MODIFY | unix.FAN_CLOSE_WRITE | unix.FAN_ATTRIB | unix.FAN_ONDIR
	// renamed are those that give a name to another file, or take it.
	renamed = unix.FAN_CREATE | unix.FAN_DELETE | unix.FAN_MOVED_FROM | unix.FAN_MOVED_TO
	// told is what each of them says: the directory and the name there, and which
	// file it is, since that may have other names.
	told = unix.FAN_REPORT_DFID_NAME | unix.FAN_REPORT_FID | unix.FAN_REPORT_TARGET_FID
	// drainEvery is how long events wait in the kernel, where those of one file become
	// one, unless somebody asks.
	drainEvery = 100 * time.Millisecond
	// maxKnown bounds the directories that a Watcher remembers the owners of.
	maxKnown = 1 << 16
	// infoHead is how long what comes before the handle is: of the record, and the id
	// of the file system.
	infoHead = 4 + 8
)

// handle is how the file system calls a file, whatever its names: the length of its
// bytes, their kind, and the bytes, as events have them.
type handle string

// Watcher hears what changes on one file system, from the kernel (fanotify): all of
// it, by anybody. Each Watch gets what is below its directory. It needs the rights of
// the machine's root, and a file system whose files have handles.
//
// The kernel queues an event before the call that caused it returns, the last of a
// process before that is gone. So whoever asks when a process is gone is told of all
// that it did. The queue is bounded (fs.fanotify.max_queued_events, 16,384 events, of
// which those of one file that wait are one), so that neither a flood of changes nor a
// reader that is stopped takes all the memory of the kernel. When it overflows the
// kernel says so, and every Watch knows nothing.
//
// It is safe for concurrent use.
type Watcher struct {
	file  *os.File // the group
	place *os.File // on the file system, to open handles
	dev   uint64
	ended chan struct{} // closed when the reader has ended
	done  chan struct{} // closed by Close

	mu      sync.Mutex // guards the rest, and reading
	closed  bool
	buf     []byte
	watches map[string]*Watch // by the path of their directories
	known   map[handle]owner  // directories
	tries   int               // of opening files, that are left to this drain
}

// owner is who is told of what happens in a directory.
type owner struct {
	watch *Watch // nil: nobody
	gone  bool   // the directory was removed
}

// NewWatcher listens to the file system of a directory, which must be there, once
// it has shown that it hears. CodeUnsupported says why it cannot.
func NewWatcher(dir string) (*Watcher, error) {
	w, err := newWatcher(dir)
	if err != nil {
		return nil, mesh.Errorf(mesh.CodeUnsupported, "changes cannot be heard of: %s", err)
	}
	if err := w.probe(dir); err != nil {
		return nil, errors.Join(mesh.Errorf(mesh.CodeUnsupported, "changes are not heard of: %s", err), w.Close())
	}
	return w, nil
}

func newWatcher(dir string) (*Watcher, error) {
	place, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	fd, err := unix.FanotifyInit(unix.FAN_CLASS_NOTIF|unix.FAN_CLOEXEC|unix.FAN_NONBLOCK|unix.FAN_UNLIMITED_MARKS|told, unix.O_RDONLY|unix.O_CLOEXEC)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("fanotify_init: %w", err), place.Close())
	}
	w := &Watcher{
		file: os.NewFile(uintptr(fd), "fanotify"), place: place, buf: make([]byte, 64<<10),
		ended: make(chan struct{}), done: make(chan struct{}), watches: map[string]*Watch{}, known: map[handle]owner{},
	}
	err = unix.Fstat(int(place.Fd()), &st)
	if err == nil {
		err = unix.FanotifyMark(fd, unix.FAN_MARK_ADD|unix.FAN_MARK_FILESYSTEM, watched, unix.AT_FDCWD, dir)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("fanotify_mark: %w", err), w.file.Close(), place.Close())
	}
	w.dev = st.Dev
	conn, err := w.file.SyscallConn()
	if err != nil {
		return nil, errors.Join(err, w.file.Close(), place.Close())
	}
	go w.run(conn) // ends with Close, which waits for it
	return w, nil
}

// probe makes a file and looks whether that was heard of.
func (w *Watcher) probe(dir string) error {
	at, err := os.MkdirTemp(dir, ".heard-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(at)
	x, err := w.Watch(at)
	if err != nil {
		return err
	}
	defer x.Close()
	err = os.WriteFile(filepath.Join(at, "file"), nil, 0o600)
	dirty := x.Take()
	switch {
	case err != nil:
		return err
	case dirty == nil:
		return errors.New("events were lost")
	case !dirty.has("file"):
		return errors.New("no event came of a file that was made")
	}
	return nil
}

// run reads what came, now and then: the queue takes memory of the kernel.
func (w *Watcher) run(conn syscall.RawConn) {
	defer close(w.ended)
	_ = conn.Read(func(uintptr) bool { // the error is that of Close
		w.drain()
		select {
		case <-w.done:
			return true
		case <-time.After(drainEvery):
			return false
		}
	})
}

// Close ends it and every Watch. Idempotent.
func (w *Watcher) Close() error {
	if w == nil {
		return nil
	}
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return nil
	}
	w.closed = true
	for _, x := range w.watches {
		x.lose()
	}
	w.mu.Unlock()
	close(w.done)
	err := w.file.Close()
	<-w.ended
	return errors.Join(err, w.place.Close())
}

// drain takes all events that there are when it begins.
func (w *Watcher) drain() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return
	}
	w.tries = maxReuse
	fd := int(w.file.Fd())
	queued, err := unix.IoctlGetInt(fd, unix.TIOCINQ)
	for n := queued / metadataLen; n > 0 && err == nil; {
		var size int
		if size, err = unix.Read(fd, w.buf); size > 0 {
			n -= w.take(w.buf[:size])
		}
		if errors.Is(err, unix.EINTR) {
			err = nil
		}
	}
	if err != nil && !errors.Is(err, unix.EAGAIN) {
		w.loseAll()
	}
}

func (w *Watcher) loseAll() {
	for _, x := range w.watches {
		x.lose()
	}
}

// metadataLen is how an event begins; TIOCINQ counts so much for each.
const metadataLen = unix.FAN_EVENT_METADATA_LEN

// take gives events to those whose they are, and returns how many there were.
func (w *Watcher) take(b []byte) (count int) {
	for len(b) >= metadataLen {
		size := int(binary.NativeEndian.Uint32(b))
		if size < metadataLen || size > len(b) || b[4] != unix.FANOTIFY_METADATA_VERSION {
			w.loseAll()
			return count + 1
		}
		mask := binary.NativeEndian.Uint64(b[8:])
		w.event(mask, b[metadataLen:size])
		b, count = b[size:], count+1
	}
	return count
}

// event is one event; info says of what.
func (w *Watcher) event(mask uint64, info []byte) {
	if mask&unix.FAN_Q_OVERFLOW != 0 {
		w.loseAll()
		return
	}
	var dir, name, file []byte
	for len(info) >= infoHead+8 {
		size := int(binary.NativeEndian.Uint16(info[2:]))
		if size < infoHead+8 || size > len(info) {
			w.loseAll()
			return
		}
		body := info[infoHead:size]
		end := 8 + int(binary.NativeEndian.Uint32(body))
		if end > len(body) {
			w.loseAll()
			return
		}
		switch info[0] {
		case unix.FAN_EVENT_INFO_TYPE_DFID_NAME, unix.FAN_EVENT_INFO_TYPE_DFID:
			dir = body[:end]
			name, _, _ = bytes.Cut(body[end:], []byte{0})
		case unix.FAN_EVENT_INFO_TYPE_FID:
			file = body[:end]
		}
		info = info[size:]
	}
	if dir == nil {
		w.alone(handle(file))
		return
	}
	o, ok := w.known[handle(dir)]
	if !ok {
		o = w.classify(handle(dir))
	}
	switch {
	case o.watch != nil:
		o.watch.add(handle(dir), string(name), handle(file), mask)
	case o.gone:
		w.alone(handle(file)) // its directory's own end is told where that was
	}
}

// classify finds out whose a directory is.
func (w *Watcher) classify(dir handle) owner {
	var o owner
	switch fd, err := w.open(dir, &w.tries); {
	case errors.Is(err, unix.ESTALE):
		o.gone = true
	case err != nil:
		w.loseAll()
		return o
	default:
		p := pathOf(fd)
		unix.Close(fd)
		if p == "" { // it may come to be said, when something above is renamed
			w.loseAll()
			return o
		}
		o.watch = w.above(p)
	}
	if len(w.known) >= maxKnown {
		clear(w.known)
	}
	w.known[dir] = o
	return o
}

// alone is an event that names no directory which is there: of a file that has
// another name. Who has that is told, or everybody where that is not clear.
func (w *Watcher) alone(file handle) {
	if file == "" || len(w.watches) == 0 {
		return
	}
	fd, err := w.open(file, &w.tries)
	switch {
	case errors.Is(err, unix.ESTALE):
		return // it has none
	case errors.Is(err, unix.ENOMEM): // another one is made of its inode again and again: who looks later finds out
		for _, x := range w.watches {
			x.addFile(file)
		}
		return
	case err != nil:
		w.loseAll()
		return
	}
	defer unix.Close(fd)
	var st, there unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Nlink == 0 || st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return
	}
	p := pathOf(fd)
	if x := w.above(p); x != nil {
		x.addFile(file)
		return
	}
	if unix.Lstat(p, &there) == nil && there.Ino == st.Ino && there.Dev == st.Dev {
		return // it is nobody's
	}
	for _, x := range w.watches {
		x.addFile(file)
	}
}

// above returns the watch of the directory that a path is in.
func (w *Watcher) above(p string) *Watch {
	for strings.HasPrefix(p, "/") && p != "/" {
		if x := w.watches[p]; x != nil {
			return x
		}
		p = path.Dir(p)
	}
	return nil
}

// open opens a file; ESTALE says that it is gone. While another file is just being
// made of its inode, ext4 says ENOMEM: this is waited for, as long as there are tries.
func (w *Watcher) open(h handle, tries *int) (int, error) {
	kind := int32(binary.NativeEndian.Uint32([]byte(h[4:8])))
	for {
		fd, err := unix.OpenByHandleAt(int(w.place.Fd()), unix.NewFileHandle(kind, []byte(h[8:])), unix.O_PATH|unix.O_CLOEXEC)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.ENOMEM) && *tries > 0:
			*tries--
			time.Sleep(reuseTime)
		default:
			return fd, err
		}
	}
}

// maxReuse and reuseTime are how often, for all files of a drain or a capture together,
// and how long it is waited for a new file to be made: some journals are slow, and others
// wait for a drain.
const (
	maxReuse  = 200
	reuseTime = 100 * time.Microsecond
)

// pathOf is where an open file is now; "" where that cannot be said.
func pathOf(fd int) string {
	p, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		return ""
	}
	return p
}

// Watch is what changed below one directory. A nil Watch knows nothing.
type Watch struct {
	w     *Watcher
	path  string
	dirty *Dirty // nil: unknown; under w.mu
	moved bool   // a name went from where it was, since dirty is new
	ended bool
}

// Watch begins to collect what changes below a directory, which has no other Watch
// in it. The directory may be renamed meanwhile, what is below it as well.
// CodeUnsupported: it is on another file system.
func (w *Watcher) Watch(dir string) (*Watch, error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, translate(".", err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, translate(".", err)
	}
	x := &Watch{w: w, path: pathOf(fd), dirty: newDirty(w)}
	if st.Dev != w.dev || x.path == "" {
		return nil, mesh.Errorf(mesh.CodeUnsupported, "it is on a file system of its own")
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return nil, mesh.Errorf(mesh.CodeUnsupported, "the watcher is closed")
	}
	w.watches[x.path] = x
	clear(w.known)
	return x, nil
}

// Close ends it. Idempotent; a nil Watch has nothing to end.
func (x *Watch) Close() {
	if x == nil {
		return
	}
	x.w.mu.Lock()
	defer x.w.mu.Unlock()
	if x.w.watches[x.path] == x {
		delete(x.w.watches, x.path)
		clear(x.w.known)
	}
	x.dirty, x.ended = nil, true
}

// Take returns what changed since it was last called, up to now, and begins anew. Nil
// says that this is not known: everything may have changed.
func (x *Watch) Take() *Dirty {
	if x == nil {
		return nil
	}
	x.w.drain()
	x.w.mu.Lock()
	defer x.w.mu.Unlock()
	d := x.dirty
	if x.ended || x.w.closed {
		return nil
	}
	x.dirty, x.moved = newDirty(x.w), false
	return d
}

// Moved reports whether a name was moved since Take: what had it may be found neither
// where that was told of, nor where it is now.
func (x *Watch) Moved() bool {
	if x == nil {
		return false
	}
	x.w.drain()
	x.w.mu.Lock()
	defer x.w.mu.Unlock()
	return x.moved || x.dirty == nil
}

// Return gives back what was taken and could not be dealt with: the next Take has it
// too.
func (x *Watch) Return(d *Dirty) {
	if x == nil {
		return
	}
	x.w.mu.Lock()
	defer x.w.mu.Unlock()
	if d == nil || x.dirty == nil {
		x.lose()
		return
	}
	if x.dirty.merge(d); x.dirty.full() {
		x.lose()
	}
}

// Lose forgets what is known: the next Take says that everything may have changed.
func (x *Watch) Lose() { x.Return(nil) }

func (x *Watch) lose() { x.dirty = nil }

func (x *Watch) add(dir handle, name string, file handle, mask uint64) {
	if mask&unix.FAN_ONDIR != 0 && mask&unix.FAN_MOVED_TO != 0 {
		clear(x.w.known) // it may come from where nobody was told of it
	}
	if x.dirty == nil {
		return
	}
	x.moved = x.moved || mask&unix.FAN_MOVED_FROM != 0
	x.dirty.add(dir, name, mask&renamed != 0)
	x.addFile(file)
}

// addFile adds a file that changed.
func (x *Watch) addFile(file handle) {
	if x.dirty == nil {
		return
	}
	if x.dirty.addFile(file); x.dirty.full() {
		x.lose()
	}
}

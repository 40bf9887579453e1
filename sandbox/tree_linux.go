package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/wsmesh/wsmesh/mesh"
)

// Tree is the host side of one workspace's directory, safe against a tenant
// who changes it at the same time.
//
// The rules that make it so: no path is ever given to the kernel for it to
// resolve with symbolic links (see walker); what is found is held by a
// descriptor and acted on through it; nothing is opened that is not a regular
// file or a directory; and what is made is made complete in Stage, out of the
// tenant's reach, and moved to its place in one step.
//
// Its methods may be called concurrently. Whoever opens it closes it.
type Tree struct {
	root  int // the workspace directory
	stage int // where new things are made
	trash int // a directory in stage: where removed directories are taken apart

	owned    bool // chown what we make
	acts     bool // root acts as the owner, in each call
	uid, gid int
	groups   []uint32       // ours, given up meanwhile; nil: none
	seq      *atomic.Uint64 // names in stage and trash
	noBatch  bool           // do without openat2; set by tests, before use
	copies   TarLimits      // of one Copy; likewise
	paging   pageLimits     // of one page of Search or Grep; likewise

	scans chan struct{} // bounds the searches and greps at a time, each holds up to maxNamesHeld
	walks chan struct{} // bounds the walks at a time, each holds up to maxHeld descriptors
	done  chan struct{} // closed by Close

	ops sync.WaitGroup // calls under way; the descriptors outlive them

	mu     sync.Mutex // guards the rest and orders ops.Add before ops.Wait
	closed bool
	idle   time.Duration
	stages map[string]*staged
	sweep  *time.Timer // set while stages is not empty
}

// maxScans bounds the memory and the processors that searches of one Tree take
// at a time; others wait.
const maxScans = 4

// maxWalks bounds the descriptors that slow walks of one Tree hold to
// about maxWalks*maxHeld.
const maxWalks = 4

// OpenTree opens the directory of a workspace and empties its stage. The error
// has CodeInvalid when Dir and Stage do not fit together, else CodeQuota,
// CodeDenied or CodeInternal. The texts of its errors are for the operator, and
// name no host path either.
func OpenTree(cfg TreeConfig) (*Tree, error) {
	t := &Tree{
		root: -1, stage: -1, trash: -1,
		owned: os.Geteuid() == 0, uid: cfg.UID, gid: cfg.GID,
		seq:    new(atomic.Uint64),
		copies: TarLimits{Entries: DefaultTarEntries, Bytes: DefaultTarBytes},
		paging: pageLimits{DefaultSearchEntries, DefaultGrepBytes, DefaultSearchTime},
		scans:  make(chan struct{}, maxScans),
		walks:  make(chan struct{}, maxWalks),
		done:   make(chan struct{}),
		idle:   cfg.StageIdle,
		stages: map[string]*staged{},
	}
	if t.idle <= 0 {
		t.idle = DefaultStageIdle
	}
	if err := t.open(cfg); err != nil {
		t.closeDirs()
		return nil, fmt.Errorf("open the workspace directory: %w", failed(err))
	}
	return t, nil
}

func (t *Tree) open(cfg TreeConfig) (err error) {
	if cfg.Dir == "" || cfg.Stage == "" {
		return mesh.Errorf(mesh.CodeInvalid, "a workspace needs a directory and a stage")
	}
	if cfg.Host {
		t.root, err = openHostDir(cfg.Dir)
		t.acts, t.owned = t.owned, false
		if err == nil && t.acts {
			err = t.findGroups()
		}
	} else {
		t.root, err = openTop(cfg.Dir, t.own)
	}
	if err != nil {
		return err
	}
	if t.stage, err = openTop(cfg.Stage, nil); err != nil {
		return err
	}
	if err := checkApart(cfg.Dir, cfg.Stage); err != nil {
		return err
	}
	switch same, err := sameMount(t.root, t.stage); {
	case err != nil:
		return err
	case !same:
		return mesh.Errorf(mesh.CodeInvalid, "the workspace and the node's data are on two file systems or mounts; they must be on one")
	}
	if t.acts {
		if err := unix.Fchown(t.stage, t.uid, t.gid); err != nil {
			return err
		}
	}
	if err := unix.Fchmod(t.stage, 0o700); err != nil {
		return err
	}
	return t.emptyStage()
}

// openTop opens one of the two directories the configuration names, which are
// the operator's words and not the tenant's. Only a workspace directory we
// make is given to the tenant; one that exists keeps its owner and mode.
func openTop(dir string, give func(fd int) error) (int, error) {
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return -1, err
	}
	err := os.Mkdir(dir, 0o700)
	made := err == nil
	if err != nil && !errors.Is(err, os.ErrExist) {
		return -1, err
	}
	fd, err := openAt(unix.AT_FDCWD, dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return -1, err
	}
	if made && give != nil {
		if err = give(fd); err == nil {
			err = unix.Fchmod(fd, 0o700)
		}
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// checkApart refuses a stage that is, holds or lies in the workspace: the stage
// is emptied.
func checkApart(dir, stage string) error {
	d, err := realPath(dir)
	if err != nil {
		return err
	}
	s, err := realPath(stage)
	if err != nil {
		return err
	}
	if strings.HasPrefix(d+"/", s+"/") || strings.HasPrefix(s+"/", d+"/") {
		return mesh.Errorf(mesh.CodeInvalid, "the workspace directory and its stage lie in one another")
	}
	return nil
}

func realPath(p string) (string, error) {
	p, err := filepath.EvalSymlinks(p)
	if err != nil {
		return "", err
	}
	return filepath.Abs(p)
}

// emptyStage removes what a predecessor left: half-written files, directories
// it was taking apart.
func (t *Tree) emptyStage() error {
	name := "rm-" + uuid.NewString()
	err := unix.Mkdirat(t.stage, name, 0o700)
	if err != nil {
		return err
	}
	t.trash, err = openAt(t.stage, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	if t.acts {
		if err := unix.Fchown(t.trash, t.uid, t.gid); err != nil {
			return err
		}
	}
	for range purgePasses {
		left, err := t.emptyPass(name)
		if err != nil || left == 0 {
			return err
		}
	}
	return unix.EBUSY
}

// emptyPass discards all of the stage except the directory keep, and returns
// how much it met.
func (t *Tree) emptyPass(keep string) (int, error) {
	d, err := openDirents(t.stage)
	if err != nil {
		return 0, err
	}
	defer d.close()
	met := 0
	for {
		names, err := d.next()
		if err != nil || len(names) == 0 {
			return met, err
		}
		for _, name := range names {
			if name == keep {
				continue
			}
			met++
			if err := t.discard(t.stage, name); err != nil && !errors.Is(err, unix.ENOENT) {
				return met, err
			}
		}
	}
}

// Close ends long operations (archives fail with CodeLost, lists,
// searches and greps with CodeUnavailable), waits for all calls to return, drops what is staged and
// releases the directory. A call that waits for the caller's reader or writer
// is waited for. Views of the Tree are of no use afterwards; files they
// returned stay open. Idempotent.
func (t *Tree) Close() error {
	t.mu.Lock()
	first := !t.closed
	t.closed = true
	if first {
		close(t.done)
		if t.sweep != nil {
			t.sweep.Stop()
		}
	}
	t.mu.Unlock()
	t.ops.Wait()
	if !first {
		return nil
	}
	for _, s := range t.stages {
		t.dropStaged(s)
	}
	t.closeDirs()
	return nil
}

func (t *Tree) closeDirs() {
	for _, fd := range []int{t.root, t.stage, t.trash} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// Gone says that the workspace directory itself was removed on the host: nothing
// can be made in it any more, and what a method finds to be missing says nothing
// about the workspace's content. False once the Tree is closed.
func (t *Tree) Gone() bool {
	if t.enter() != nil {
		return false
	}
	defer t.leave()
	return t.gone()
}

func (t *Tree) gone() bool {
	var st unix.Stat_t
	return unix.Fstat(t.root, &st) == nil && st.Nlink == 0
}

// enter admits one call; every enter without an error is followed by a leave, on
// the same goroutine.
func (t *Tree) enter() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return errClosing()
	}
	t.ops.Add(1)
	t.act(t.uid, t.gid)
	return nil
}

func (t *Tree) leave() {
	t.act(0, 0)
	t.ops.Done()
}

// act gives the thread the owner's rights to files and no others, or with 0 ours
// again: in a directory of the host lie things that are not the owner's. It is not
// nested, and the goroutine stays on the thread.
func (t *Tree) act(uid, gid int) {
	if !t.acts {
		return
	}
	if uid != 0 {
		runtime.LockOSThread()
	}
	unix.Setfsgid(gid) //nolint:errcheck // root may
	unix.Setfsuid(uid) //nolint:errcheck // as above
	if len(t.groups) > 0 {
		groups := t.groups
		if uid != 0 {
			groups = nil
		}
		_ = setThreadGroups(groups) // findGroups has tried it
	}
	if uid == 0 {
		runtime.UnlockOSThread()
	}
}

// findGroups learns which groups act has to give up, and that it can.
func (t *Tree) findGroups() error {
	all, err := unix.Getgroups()
	if err != nil || len(all) == 0 {
		return err
	}
	for _, gid := range all {
		t.groups = append(t.groups, uint32(gid))
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	return setThreadGroups(t.groups)
}

// setThreadGroups sets the supplementary groups of the calling thread alone.
func setThreadGroups(groups []uint32) error {
	_, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(unsafe.Pointer(unsafe.SliceData(groups))), 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// ending returns an error once the Tree is being closed.
func (t *Tree) ending() error {
	select {
	case <-t.done:
		return errClosing()
	default:
		return nil
	}
}

func errClosing() error { return mesh.Errorf(mesh.CodeUnavailable, "the workspace is being closed") }

// fresh returns a name nothing in stage or trash has.
func (t *Tree) fresh() string { return strconv.FormatUint(t.seq.Add(1), 10) }

// own gives what fd is open on to the tenant. It comes before any chmod, since
// the kernel drops setuid bits on a change of owner.
func (t *Tree) own(fd int) error {
	if !t.owned {
		return nil
	}
	return unix.Fchownat(fd, "", t.uid, t.gid, unix.AT_EMPTY_PATH)
}

// Dirs returns paths of the workspace's directory and of its stage that work in this
// process, with the rights that a Gate has, while the Tree is open.
func (t *Tree) Dirs() (root, stage string) {
	return fmt.Sprintf("/proc/self/fd/%d/.", t.root), fmt.Sprintf("/proc/self/fd/%d/.", t.stage)
}

// View returns the view of the Tree below scope, a result of mesh.ParseScope;
// "" and "." are the whole workspace. It does no I/O; a scope that is missing,
// or is or passes through a symbolic link, shows at the first call.
func (t *Tree) View(scope string) *View {
	if scope == "" || scope == "." {
		return &View{tree: t, scope: "."}
	}
	return &View{tree: t, scope: scope, parts: strings.Split(scope, "/")}
}

// View is a Tree seen from one scope. The paths its methods take are results of
// mesh.ResolvePath for that scope: clean, relative to the workspace root.
//
// A path's symbolic links are followed as the tenant would see them, at most
// 40 of them, as long as each stays inside the scope. A target that is relative
// counts from the link and may not leave the scope by "..", not even to come
// back; one that is absolute must begin with /workspace and then with the
// scope's own path. Anything else is CodeDenied, whether it exists or not.
//
// Errors are *mesh.Error whose texts say why, and leave out what was asked for:
// who asked names it better. Besides those a method names: CodeNotFound, CodeDenied,
// CodeInvalid (not a directory, too many links, a name too long), CodeBusy (out
// of descriptors, or the tenant changes the path faster than it can be
// followed), CodeUnavailable (closed), CodeInternal. Methods that create make the scope
// and the directories above the path, and have CodeQuota when the disk or a
// quota is full. Methods may be called concurrently.
type View struct {
	tree  *Tree
	scope string
	parts []string // the scope's names; none for "."
	gate  Gate
}

// below returns p relative to the scope, "" for its root.
func (v *View) below(p string) (string, error) {
	if p == "" || p != path.Clean(p) || p[0] == '/' || strings.IndexByte(p, 0) >= 0 {
		return "", mesh.Errorf(mesh.CodeInvalid, "path %.200q is not clean and relative", p)
	}
	if p == ".." || strings.HasPrefix(p, "../") {
		return "", errOutside()
	}
	switch {
	case p == v.scope:
		return "", nil
	case v.scope == ".":
		return p, nil
	case strings.HasPrefix(p, v.scope+"/"):
		return p[len(v.scope)+1:], nil
	}
	return "", errOutside()
}

// Shown is the path that an Info of this view carries.
func (v *View) Shown(p string) mesh.Path {
	rel, err := v.below(p)
	if err != nil || rel == "" {
		return "."
	}
	return mesh.Path(rel)
}

func errOutside() error { return mesh.Errorf(mesh.CodeDenied, "the path leaves the scope") }

// errBusy is what remains to be said when a path was not found to stay.
func (t *Tree) errBusy() error {
	if t.gone() {
		return mesh.Errorf(mesh.CodeNotFound, "the directory of the workspace was removed on its host")
	}
	return mesh.Errorf(mesh.CodeBusy, "the path is being changed all the time; try again")
}

// OpenRoot returns the scope's directory, opened with O_PATH: good to bind,
// to chdir to and to open things relative to, not to read. With create it and
// its parents are made (0755, the tenant's) when missing. The caller closes it.
func (v *View) OpenRoot(create bool) (*os.File, error) {
	if err := v.tree.enter(); err != nil {
		return nil, err
	}
	defer v.tree.leave()
	fd, err := v.openScope(create)
	if err != nil {
		return nil, failed(err)
	}
	return os.NewFile(uintptr(fd), v.scope), nil
}

// failed translates an error where it leaves the package. It says why, and not
// what was asked for: the caller knows that, and the path in its own terms.
func failed(err error) error {
	var known *mesh.Error
	if err == nil || errors.As(err, &known) {
		return err
	}
	var no unix.Errno
	if !errors.As(err, &no) {
		return mesh.Errorf(mesh.CodeInternal, "the host failed")
	}
	code, text := mesh.CodeInternal, no.Error()
	switch no {
	case unix.ENOENT:
		code = mesh.CodeNotFound
	case unix.EEXIST:
		code = mesh.CodeExists
	case unix.EACCES, unix.EPERM, unix.EROFS:
		code = mesh.CodeDenied
	case unix.ENOSPC, unix.EDQUOT, unix.EMLINK:
		code = mesh.CodeQuota
	case unix.EFBIG, unix.EOVERFLOW:
		code = mesh.CodeTooLarge
	case unix.EISDIR, unix.ENOTDIR, unix.ENOTEMPTY, unix.EINVAL, unix.ENAMETOOLONG, unix.ELOOP, unix.ENXIO, unix.ENODEV:
		code = mesh.CodeInvalid
	case unix.EAGAIN, unix.EBUSY, unix.EMFILE, unix.ENFILE, unix.ETXTBSY:
		code = mesh.CodeBusy
	case unix.EOPNOTSUPP, unix.ENOSYS:
		code = mesh.CodeUnsupported
	case unix.EXDEV:
		code, text = mesh.CodeUnsupported, "it is on another file system than the rest of the workspace, to which nothing is moved in one step; use a command there"
	}
	return mesh.Errorf(code, "%s", text)
}

// Churn does random things to the files of its working directory, as programs do:
//
//	churn SEED COUNT
//
// What cannot be done is not done. It ends with a store through a mapping that it has
// had for long.
package main

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"syscall"
	"time"
	"unsafe"
)

func main() {
	seed, err := strconv.ParseUint(os.Args[1], 10, 64)
	must(err)
	count, err := strconv.Atoi(os.Args[2])
	must(err)
	r := rand.New(rand.NewPCG(seed, 1))
	debug.SetPanicOnFault(true)
	c := &churn{Rand: r}
	held := c.hold()
	for range count {
		c.something()
	}
	store(held, 0, 1) // the page is dirty already: neither time nor event tells of it
}

// store changes a byte of a mapping, unless its file has become shorter.
func store(m []byte, at int, b byte) {
	defer func() { _ = recover() }()
	m[at] ^= b
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "churn:", err)
		os.Exit(1)
	}
}

type churn struct{ *rand.Rand }

// hold maps a file and stores to it.
func (c *churn) hold() []byte {
	p := c.name()
	_ = os.MkdirAll(filepath.Dir(p), 0o755)
	f, err := os.OpenFile(p, os.O_CREATE|os.O_RDWR|syscall.O_NONBLOCK, 0o644)
	if err != nil {
		return nil
	}
	defer f.Close()
	if f.Truncate(4096) != nil {
		return nil
	}
	m, err := syscall.Mmap(int(f.Fd()), 0, 4096, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		return nil
	}
	store(m, 0, byte(c.IntN(256)))
	return m
}

var names = []string{"a", "b", "c c", "d\n", "\xff\xfe", "-rf", "ü"}

// name is a path of one to three names; names are few, so that things meet.
func (c *churn) name() string {
	p := names[c.IntN(len(names))]
	for range c.IntN(3) {
		p = filepath.Join(p, names[c.IntN(len(names))])
	}
	return p
}

func (c *churn) content() []byte {
	sizes := []int{0, 1, 100, 4096, 5000, 70_000}
	return bytes.Repeat([]byte{byte('a' + c.IntN(26))}, sizes[c.IntN(len(sizes))])
}

func (c *churn) something() {
	p := c.name()
	switch c.IntN(21) {
	case 0, 1, 2:
		_ = os.MkdirAll(filepath.Dir(p), 0o755)
		c.edit(p, os.O_CREATE|os.O_TRUNC, func(f *os.File) { _, _ = f.Write(c.content()) })
	case 3:
		_ = os.MkdirAll(p, 0o755)
	case 4:
		c.edit(p, os.O_APPEND, func(f *os.File) { _, _ = f.WriteString("more") })
	case 5:
		c.sameSize(p)
	case 6:
		c.mapped(p)
	case 7, 8:
		_ = os.Rename(p, c.name())
	case 9, 10:
		_ = os.Link(p, c.name())
	case 11:
		_ = os.Symlink(c.name(), p)
	case 12:
		_ = syscall.Chmod(p, []uint32{0o600, 0o755, 0o4711, 0o1777, 0o640}[c.IntN(5)])
	case 13:
		_ = syscall.Setxattr(p, "user.churn", c.content()[:0:0], 0)
		_ = syscall.Setxattr(p, "user.other", []byte(strconv.Itoa(c.IntN(9))), 0)
		_ = syscall.Removexattr(p, "user.churn")
	case 14:
		c.edit(p, 0, func(f *os.File) { _ = f.Truncate(int64(c.IntN(9000))) })
	case 15: // with a hole
		c.edit(p, 0, func(f *os.File) { _, _ = f.WriteAt([]byte("end"), int64(c.IntN(1<<20))) })
	case 16:
		c.remove(p)
	case 17: // another of the same name
		c.remove(p)
		if c.IntN(2) == 0 {
			_ = os.Mkdir(p, 0o700)
		} else {
			c.edit(p, os.O_CREATE, func(f *os.File) { _, _ = f.Write(c.content()) })
		}
	case 18:
		at := time.Unix(int64(c.IntN(2_000_000_000)), int64(c.IntN(1e9)))
		_ = os.Chtimes(p, at, at)
	case 19: // as editors save
		c.edit(p+"~", os.O_CREATE|os.O_TRUNC, func(f *os.File) { _, _ = f.Write(c.content()) })
		if os.Rename(p+"~", p) != nil {
			_ = os.Remove(p + "~")
		}
	case 20:
		_ = syscall.Mkfifo(p, 0o600)
	}
}

// remove removes what is there; not through a FIFO, which would wait.
func (c *churn) remove(p string) {
	if info, err := os.Lstat(filepath.Dir(p)); err == nil && info.IsDir() {
		_ = os.RemoveAll(p)
	}
}

func (c *churn) edit(p string, flags int, do func(*os.File)) {
	f, err := os.OpenFile(p, flags|os.O_RDWR|syscall.O_NONBLOCK, 0o644)
	if err != nil {
		return
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
		do(f)
	}
}

// sameSize changes a byte, and leaves size and time as they were.
func (c *churn) sameSize(p string) {
	c.edit(p, 0, func(f *os.File) {
		info, err := f.Stat()
		if err != nil || info.Size() == 0 {
			return
		}
		_, _ = f.WriteAt([]byte{byte(c.IntN(256))}, c.Int64N(info.Size()))
		_ = os.Chtimes(p, info.ModTime(), info.ModTime())
	})
}

// mapped stores through a mapping, is synced, and stores again.
func (c *churn) mapped(p string) {
	c.edit(p, 0, func(f *os.File) {
		info, err := f.Stat()
		if err != nil || info.Size() == 0 || f.Truncate(info.Size()) != nil {
			return
		}
		m, err := syscall.Mmap(int(f.Fd()), 0, int(min(info.Size(), 8192)), syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
		if err != nil {
			return
		}
		store(m, 0, byte(c.IntN(256)))
		_, _, _ = syscall.Syscall(syscall.SYS_MSYNC, uintptr(unsafe.Pointer(&m[0])), uintptr(len(m)), syscall.MS_SYNC)
		store(m, 0, byte(c.IntN(256)))
		_ = f.Sync()
		store(m, len(m)-1, byte(c.IntN(256)))
		_ = syscall.Munmap(m)
	})
}

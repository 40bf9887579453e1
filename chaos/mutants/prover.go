//go:build unix

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// testTimeout bounds each run of a test, without building it, which takes as long as
// the machine is busy. A test that hangs on a broken promise has not said that it is
// broken, so running out of time is not being caught.
const (
	testTimeout  = 3 * time.Minute
	buildTimeout = 15 * time.Minute
)

// outputTail is how much of a command's output a verdict shows.
const outputTail = 4 << 10

type verdict struct {
	caught bool
	detail string // why not
	took   time.Duration
}

func (v verdict) word() string {
	if v.caught {
		return "caught"
	}
	return "NOT CAUGHT"
}

// prover tries mutants one after another. It is not safe for concurrent use.
type prover struct {
	root string // the working tree
	dir  string // its own, for copies

	baseline map[witness]error // what it says about the tree as it is
}

// try reports what became of one mutant. An error means that it could not be
// tried.
func (p *prover) try(ctx context.Context, m mutant) (verdict, error) {
	start := time.Now()
	tree, err := p.copyTree(ctx)
	if err != nil {
		return verdict{}, fmt.Errorf("copy the working tree: %w", err)
	}
	detail := p.weakness(ctx, tree, m)
	return verdict{caught: detail == "", detail: detail, took: time.Since(start)}, nil
}

// weakness says why m proves nothing, or "" when its test caught it.
func (p *prover) weakness(ctx context.Context, tree string, m mutant) string {
	if _, known := p.baseline[m.test]; !known {
		p.baseline[m.test] = p.runTest(ctx, tree, m.test, passes)
	}
	if err := p.baseline[m.test]; err != nil {
		return "without the patch, " + err.Error()
	}
	if out, err := run(ctx, buildTimeout, tree, tree, "git", "apply", m.file); err != nil {
		return fmt.Sprintf("the patch does not apply: %v\n%s", err, tail(out))
	}
	if err := p.runTest(ctx, tree, m.test, fails); err != nil {
		return "with the patch, " + err.Error()
	}
	return ""
}

// runTest builds the test of a package, runs it, and asks whether its output is the
// wanted one.
func (p *prover) runTest(ctx context.Context, tree string, t witness, wanted func(out string, err error) error) error {
	binary := filepath.Join(p.dir, "test")
	if out, err := run(ctx, buildTimeout, tree, tree, "go", "test", "-c", "-o", binary, t.pkg); err != nil {
		return fmt.Errorf("the test does not build: %w\n%s", err, tail(out))
	}
	return wanted(run(ctx, testTimeout, tree, filepath.Join(tree, t.pkg), binary, "-test.v", "-test.count=1", "-test.run="+t.run))
}

// passes is nil when a test was run and passed: one that skipped, or that -run
// does not find, is no witness.
func passes(out string, err error) error {
	if err != nil {
		return fmt.Errorf("the test does not pass: %w\n%s", err, tail(out))
	}
	if strings.Contains("\n"+out, "\n--- SKIP: ") {
		return fmt.Errorf("the test is skipped\n%s", tail(out))
	}
	if !strings.Contains("\n"+out, "\n--- PASS: ") {
		return errors.New("no test was run")
	}
	return nil
}

// fails is nil when a test was run and failed of itself.
func fails(out string, err error) error {
	switch {
	case err == nil:
		return errors.New("the test passes: the mutant survives")
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("the test gave no verdict: %w\n%s", err, tail(out))
	case !strings.Contains(out, "--- FAIL: "):
		return fmt.Errorf("no test failed, but the program did: %w\n%s", err, tail(out))
	}
	return nil
}

// copyTree makes a fresh copy of the files that git knows or would add. It is
// always at the same place, because the go command's cache goes by directory.
func (p *prover) copyTree(ctx context.Context) (string, error) {
	tree := filepath.Join(p.dir, "tree")
	if err := os.RemoveAll(tree); err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	cmd.Dir = p.root
	cmd.Stderr = os.Stderr
	list, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("git ls-files: %w", err)
	}
	for name := range strings.SplitSeq(strings.TrimRight(string(list), "\x00"), "\x00") {
		err := copyFile(filepath.Join(p.root, name), filepath.Join(tree, name))
		// A file that is deleted but not yet committed is not in the working tree.
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
	}
	return tree, nil
}

func copyFile(from, to string) error {
	info, err := os.Lstat(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	if info.Mode()&fs.ModeSymlink != 0 {
		target, err := os.Readlink(from)
		if err != nil {
			return err
		}
		return os.Symlink(target, to)
	}
	if !info.Mode().IsRegular() {
		return nil
	}
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, info.Mode().Perm())
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, src)
	return errors.Join(err, dst.Close())
}

// run runs a command in a directory of the copy and returns what it printed. Its
// whole process group ends with it.
func run(ctx context.Context, limit time.Duration, tree, dir, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	// Were the copy below some other repository, git apply would look for the
	// patch's files there and skip them in silence.
	cmd.Env = append(os.Environ(), "GIT_CEILING_DIRECTORIES="+filepath.Dir(tree))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return out.String(), err
}

func tail(s string) string {
	if len(s) > outputTail {
		s = "…" + s[len(s)-outputTail:]
	}
	return s
}

// Package s3test gives tests a real S3 server, versitygw, that can be killed and
// started again, and a fake one in the test's process.
package s3test

import (
	"context"
	"net"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
	"github.com/stretchr/testify/require"
)

// Keys and Bucket of the servers.
const (
	AccessKey = "test"
	SecretKey = "secret-of-tests"
	Bucket    = "bucket"
)

// Environ is what a process needs in its environment to use the servers.
var Environ = []string{
	"AWS_ACCESS_KEY_ID=" + AccessKey, "AWS_SECRET_ACCESS_KEY=" + SecretKey, "AWS_EC2_METADATA_DISABLED=true",
	"AWS_CONFIG_FILE=" + os.DevNull, "AWS_SHARED_CREDENTIALS_FILE=" + os.DevNull, "AWS_ENDPOINT_URL=", "AWS_REGION=",
}

// Setenv gives the test's process that environment.
func Setenv(t *testing.T) {
	t.Helper()
	for _, e := range Environ {
		name, value, _ := strings.Cut(e, "=")
		t.Setenv(name, value)
	}
}

// Fake serves an empty bucket from memory and returns the server's URL.
func Fake(t *testing.T) string {
	t.Helper()
	backend := s3mem.New()
	require.NoError(t, backend.CreateBucket(Bucket))
	server := httptest.NewServer(gofakes3.New(backend).Server())
	t.Cleanup(server.Close)
	return server.URL
}

// Server is a versitygw with one bucket, whose objects are plain files below Dir.
type Server struct {
	Dir string // of the bucket's objects

	address, program, data string
	process                *exec.Cmd
}

// Start runs a server until the test ends. It skips the test where versitygw is not
// to be had, and fails it where WSMESH_REQUIRE has s3: make test-s3 installs it.
func Start(t *testing.T) *Server {
	t.Helper()
	program := find()
	if program == "" {
		const missing = "versitygw is not there; install it with: make bin/versitygw"
		if slices.Contains(strings.Split(os.Getenv("WSMESH_REQUIRE"), ","), "s3") {
			t.Fatal(missing)
		}
		t.Skip(missing)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := &Server{program: program, data: t.TempDir(), address: l.Addr().String()}
	require.NoError(t, l.Close())
	s.Dir = filepath.Join(s.data, "data", Bucket)
	for _, dir := range []string{s.Dir, filepath.Join(s.data, "sidecar")} {
		require.NoError(t, os.MkdirAll(dir, 0o700))
	}
	s.Start(t)
	t.Cleanup(s.Kill)
	return s
}

// find returns the program's path: in bin at the root of the module, or in PATH.
func find() string {
	for dir, err := os.Getwd(); err == nil && dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err != nil {
			continue
		}
		program := filepath.Join(dir, "bin", "versitygw")
		if _, err := os.Stat(program); err == nil {
			return program
		}
	}
	program, _ := exec.LookPath("versitygw") // "" where there is none
	return program
}

// URL is the server's.
func (s *Server) URL() string { return "http://" + s.address }

// Start starts a server that was killed, and returns when it answers.
func (s *Server) Start(t *testing.T) {
	t.Helper()
	s.process = exec.CommandContext(context.Background(), s.program, "--port", s.address, "--quiet",
		"posix", "--sidecar", filepath.Join(s.data, "sidecar"), filepath.Join(s.data, "data"))
	s.process.Env = append(os.Environ(), "ROOT_ACCESS_KEY="+AccessKey, "ROOT_SECRET_KEY="+SecretKey)
	require.NoError(t, s.process.Start())
	require.Eventually(t, func() bool {
		c, err := net.DialTimeout("tcp", s.address, time.Second)
		if err == nil {
			c.Close()
		}
		return err == nil
	}, 20*time.Second, 20*time.Millisecond, "versitygw does not listen")
}

// Kill ends the server with signal 9, if it runs.
func (s *Server) Kill() {
	if s.process == nil {
		return
	}
	_ = s.process.Process.Kill()
	_ = s.process.Wait()
	s.process = nil
}

package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/node/nodetest"
)

// An ordinary user is told what it lacks, and what to do about it.
func TestDoctorOfAnOrdinaryUser(t *testing.T) {
	nodetest.Commands(t)
	nodetest.Need(t, os.Geteuid() == 0, "root", "only root becomes another user")
	home, err := os.MkdirTemp("", "wsmesh-doctor-")
	require.NoError(t, err)
	defer os.RemoveAll(home)
	const uid = 64243
	require.NoError(t, os.Chown(home, uid, uid))
	// The program lies where another user may not go; its open file does not.
	cmd := &exec.Cmd{Path: "/proc/self/exe", Args: []string{"wsmesh", "doctor", "--json", "--data", filepath.Join(home, "d")}, Dir: home}
	cmd.Env = []string{"HOME=" + home, "TMPDIR=" + home, "PATH=/usr/bin:/bin"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid, Groups: []uint32{}}}
	out, err := cmd.Output()
	require.NoError(t, err, "%s", out)
	found := map[string]finding{}
	for d := json.NewDecoder(bytes.NewReader(out)); d.More(); {
		var f finding
		require.NoError(t, d.Decode(&f))
		found[f.Check] = f
		require.NotEqual(t, stateFail, f.State, "%+v", f)
		require.Equal(t, f.State == stateOK, f.Fix == "", "%+v", f)
	}
	for check, detail := range map[string]string{
		"user": "commands of all tenants run as you", "limits": "memory is bounded for each process",
		"processors": "takes them from the others", "sandboxes": "cannot share one",
	} {
		require.Equal(t, stateWarn, found[check].State, check)
		require.Contains(t, found[check].Detail, detail)
	}
	require.Equal(t, stateOK, found["isolation"].State)
	require.Contains(t, found["limits"].Fix, "root")
}

package bench

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
)

const (
	// DefaultFiles is how many files a tree that is restored has: those of a
	// repository with its packages.
	DefaultFiles = 10_000
	perDirectory = 50
)

// restorePair restores a workspace whose directory is gone, from the store and up to the
// first answer, against tar, which unpacks the same tree on the same disk. The directory
// is taken away here, so this runs beside the node.
func restorePair(ctx context.Context, cfg Config, ws *client.Workspace) (_ *pair, err error) {
	if cfg.Files <= 0 {
		cfg.Files = DefaultFiles
	}
	dir, err := filepath.Abs(filepath.Join(cfg.Data, "workspaces", cfg.Client.Tenant(), ws.Name()))
	if err != nil {
		return nil, err
	}
	temp, err := os.MkdirTemp(cfg.Data, "bench-")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			os.RemoveAll(temp)
		}
	}()
	archive, names, sums, err := tree(cfg.Files)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(temp, "tree.tar")
	if err = os.WriteFile(file, archive, 0o600); err != nil {
		return nil, err
	}
	if err = ws.PutDir(ctx, ".", bytes.NewReader(archive)); err != nil {
		return nil, err
	}
	if _, err = os.Stat(dir); err != nil {
		return nil, mesh.Errorf(mesh.CodeUnsupported, "bench: restore takes the workspace's directory away, which is not below %s; run it with --data DIR where the node runs", cfg.Data)
	}
	to := func(i int) string { return filepath.Join(temp, fmt.Sprint(i)) }
	p := &pair{
		floorName: "tar", least: 3,
		ours: func(ctx context.Context, i int) error {
			f, err := ws.Stat(ctx, names[i%len(names)])
			if err == nil && f.Type != "file" {
				err = mesh.Errorf(mesh.CodeInternal, "bench: the restored tree is another one")
			}
			return err
		},
		floor: func(ctx context.Context, i int) error {
			return exec.CommandContext(ctx, "tar", "-xf", file, "-C", to(i)).Run()
		},
		after: func(ctx context.Context, i int) error {
			// The answer may have come from the packs, while files are still being made.
			if _, err := ws.Consistent().Stat(ctx, "."); err != nil {
				return err
			}
			return lose(dir, to(i+1))
		},
		check: func(ctx context.Context) error {
			for i := 0; i < len(names); i += perDirectory {
				b, err := ws.ReadFile(ctx, names[i])
				if err == nil && sha256.Sum256(b) != sums[i] {
					err = mesh.Errorf(mesh.CodeInternal, "bench: the restored file %s has other bytes than were written", names[i])
				}
				if err != nil {
					return err
				}
			}
			return nil
		},
		close: func() { os.RemoveAll(temp) },
	}
	return p, lose(dir, to(0))
}

// lose takes a workspace's directory away, and makes one for tar. What was in it stays
// in a corner until all is measured: ext4 makes files slowly where others have just been
// removed.
func lose(dir, to string) error {
	if err := errors.Join(os.Mkdir(to, 0o700), os.Mkdir(to+"-lost", 0o700)); err != nil {
		return err
	}
	tree := filepath.Join(dir, "workspace")
	entries, err := os.ReadDir(tree)
	for _, e := range entries {
		err = errors.Join(err, os.Rename(filepath.Join(tree, e.Name()), filepath.Join(to+"-lost", e.Name())))
	}
	return errors.Join(err, os.RemoveAll(dir))
}

// tree is an archive of files in directories, two deep, of 256 B to 32 KiB, small ones
// most, whose words compress as a program does, and what is in it.
func tree(files int) (archive []byte, names []string, sums [][sha256.Size]byte, err error) {
	random := rand.New(rand.NewPCG(1, 2))
	words := make([]string, 2000)
	for i := range words {
		b := make([]byte, 2+random.IntN(9))
		for j := range b {
			b[j] = byte('a' + random.IntN(26))
		}
		words[i] = string(b)
	}
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	add := func(h *tar.Header, content []byte) {
		h.ModTime, h.Size = time.Unix(1_700_000_000, 0), int64(len(content))
		if err == nil {
			err = w.WriteHeader(h)
		}
		if err == nil {
			_, err = w.Write(content)
		}
	}
	dir := ""
	for i := range files {
		if i%(10*perDirectory) == 0 {
			dir = fmt.Sprintf("part%03d", i/perDirectory)
			add(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755}, nil)
		}
		if i%perDirectory == 0 {
			add(&tar.Header{Typeflag: tar.TypeDir, Name: fmt.Sprintf("%s/d%d/", dir, i/perDirectory%10), Mode: 0o755}, nil)
		}
		content := make([]byte, 0, 33<<10)
		for size := 256 << random.IntN(7) * (8 + random.IntN(8)) / 8; len(content) < size; {
			content = append(append(content, words[int(float64(len(words))*random.Float64()*random.Float64())]...), ' ')
		}
		names = append(names, fmt.Sprintf("%s/d%d/file%05d.txt", dir, i/perDirectory%10, i))
		sums = append(sums, sha256.Sum256(content))
		add(&tar.Header{Typeflag: tar.TypeReg, Name: names[i], Mode: 0o644}, content)
	}
	if err == nil {
		err = w.Close()
	}
	return out.Bytes(), names, sums, err
}

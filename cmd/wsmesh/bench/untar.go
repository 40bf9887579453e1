package bench

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/wsmesh/wsmesh/client"
)

// untarFiles is how many files each turn of the row untar makes; all of them stay, since
// ext4 makes files slowly where others have just been removed.
const untarFiles = 2000

// untarPair is how long tar takes in a workspace, by the clock there, whose changes are
// captured: what it pays for being heard, and not the capture after it. The floor is the
// same tar on the same disk, so this runs beside the node.
func untarPair(ctx context.Context, cfg Config, ws *client.Workspace) (_ *pair, err error) {
	if cfg.Files <= 0 {
		cfg.Files = untarFiles
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
	archive, _, _, err := tree(cfg.Files)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(temp, "tree.tar")
	if err = os.WriteFile(file, archive, 0o600); err != nil {
		return nil, err
	}
	if err = ws.Put(ctx, "tree.tar", bytes.NewReader(archive), 0o644); err != nil {
		return nil, err
	}
	return &pair{
		floorName: "tar", least: 10,
		lag: func(ctx context.Context, i int) (time.Duration, error) {
			out, err := ws.Command(ctx, "sh", "-c", `mkdir $0 && from=$(date +%s%N) && tar --no-same-owner -xf tree.tar -C $0 && echo $(($(date +%s%N)-from))`, fmt.Sprint(i)).Output()
			if err != nil {
				return 0, err
			}
			took, err := strconv.ParseInt(strings.TrimSpace(string(out)), 10, 64)
			return time.Duration(took), err
		},
		floor: func(ctx context.Context, i int) error {
			to := filepath.Join(temp, fmt.Sprint(i))
			if err := os.Mkdir(to, 0o700); err != nil {
				return err
			}
			return exec.CommandContext(ctx, "tar", "--no-same-owner", "-xf", file, "-C", to).Run()
		},
		close: func() { os.RemoveAll(temp) },
	}, nil
}

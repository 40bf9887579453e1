package main

import (
	"context"
	"net/url"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/objstore"
	"github.com/wsmesh/wsmesh/objstore/dirbucket"
	"github.com/wsmesh/wsmesh/objstore/s3bucket"
)

// mirrorFlags say where nodes copy the mesh to.
type mirrorFlags struct {
	s3           string
	adopt, files bool
}

// mirrorNames are the flags, for flagsFromEnv.
var mirrorNames = []string{"s3", "s3-files", "adopt"}

// bind binds them; files says whether there is a readable copy unless it is asked for.
func (m *mirrorFlags) bind(cmd *cobra.Command, files bool) {
	cmd.Flags().StringVar(&m.s3, "s3", "", "copy everything to `URL`: s3://BUCKET/PREFIX?endpoint=…&region=… or file:///DIR")
	cmd.Flags().BoolVar(&m.files, "s3-files", files, "keep a copy of the files there too that other tools can read")
	cmd.Flags().BoolVar(&m.adopt, "adopt", false, "write over the copy that another mesh has left at --s3")
}

// open returns the remote that was asked for; nil if none was.
func (m *mirrorFlags) open(ctx context.Context, cmd *cobra.Command) (objstore.Remote, error) {
	if m.s3 == "" {
		switch {
		case m.adopt:
			return nil, wrongUse(cmd, "--adopt needs --s3")
		case m.files && cmd.Flags().Changed("s3-files"):
			return nil, wrongUse(cmd, "--s3-files needs --s3")
		}
		return nil, nil
	}
	return openRemote(ctx, m.s3)
}

// openRemote opens what is at an s3:// or file:// URL; the error says what is wrong
// with another one.
func openRemote(ctx context.Context, at string) (objstore.Remote, error) {
	if !strings.HasPrefix(at, "file:") {
		return s3Remote(s3bucket.Open(ctx, at))
	}
	u, err := url.Parse(at)
	if err != nil || u.Host != "" || !filepath.IsAbs(u.Path) || u.RawQuery != "" {
		return nil, mesh.Errorf(mesh.CodeInvalid, "%.200q is not file:///DIR with the absolute path of a directory", at)
	}
	s, err := dirbucket.OpenStore(u.Path)
	if err != nil {
		return nil, mesh.About(at, err)
	}
	return s, nil
}

// s3Remote keeps a nil store from becoming a remote that is none.
func s3Remote(s *s3bucket.Store, err error) (objstore.Remote, error) {
	if err != nil {
		return nil, err
	}
	return s, nil
}

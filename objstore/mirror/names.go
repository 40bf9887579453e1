package mirror

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/objstore"
)

// Where the readable copy of a workspace is, below the workspace. What has too long a
// name has its hash for one in overflowDir, and its path in an object beside it.
const (
	filesDir    = "files/"
	overflowDir = "files-overflow/"
	pathOf      = ".path"
)

// maxFileName bounds the names of its objects as they are below the prefix of the
// remote, which has the other half of what S3 allows; maxComponent is what file systems
// allow, where file:// and some S3 servers keep them.
const (
	maxFileName  = objstore.MaxObjectName / 2
	maxComponent = mesh.MaxNameBytes
)

// fileName is the name, below the workspace, of the object that a file is in the readable
// copy: its path below files/. A byte that is of no UTF-8, a control character or a
// percent sign is %XX; an empty directory ends with a slash.
func fileName(p string, dir bool) string {
	name, fits := escape(p), true
	for part := range strings.SplitSeq(name, "/") {
		fits = fits && len(part) <= maxComponent
	}
	end := ""
	if dir {
		end = "/"
	}
	if name = filesDir + name + end; fits && len(name) <= maxFileName-maxWorkspaceBelow {
		return name
	}
	sum := sha256.Sum256([]byte(p))
	return overflowDir + hex.EncodeToString(sum[:]) + end
}

// maxWorkspaceBelow is the longest workspaceBelow.
const maxWorkspaceBelow = len("tenants//workspaces//") + 2*40

func escape(p string) string {
	var b strings.Builder
	for len(p) > 0 {
		r, n := utf8.DecodeRuneInString(p)
		odd := r == utf8.RuneError && n == 1 || r == '%' || unicode.IsControl(r) || r == '\uFFFE' || r == '\uFFFF' // the last two cannot be in XML
		for _, c := range []byte(p[:n]) {
			if odd {
				fmt.Fprintf(&b, "%%%02X", c)
			} else {
				b.WriteByte(c)
			}
		}
		p = p[n:]
	}
	return b.String()
}

// unescape is the inverse of escape; what escape does not write it returns as it is.
func unescape(name string) string {
	var b strings.Builder
	for i := 0; i < len(name); i++ {
		if name[i] == '%' && i+2 < len(name) {
			if c, err := strconv.ParseUint(name[i+1:i+3], 16, 8); err == nil {
				b.WriteByte(byte(c))
				i += 2
				continue
			}
		}
		b.WriteByte(name[i])
	}
	return b.String()
}

// alike reports whether two objects of one name are equal.
func alike(a, b *objstore.Entry) bool {
	return a.Type == b.Type && a.Size == b.Size && a.Target == b.Target && a.Mode == b.Mode && a.ModTime.Equal(b.ModTime) &&
		slices.Equal(a.Holes, b.Holes) && (a.Type == objstore.TypeDir || sameContent(a, b))
}

func sameContent(a, b *objstore.Entry) bool { return slices.Equal(a.Content, b.Content) }

package node_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/node"
)

// Every exported Default… of the packages that a node is made of is in Limits.
func TestLimitsAreAll(t *testing.T) {
	notLimits := []string{"mesh.DefaultNamespace", "sandbox.DefaultTenantBase"}
	limits := node.Limits()
	for _, pkg := range []string{"kv", "mesh", "node", "node/egress", "sandbox"} {
		files, err := filepath.Glob(filepath.Join("..", pkg, "*.go"))
		require.NoError(t, err)
		require.NotEmpty(t, files)
		for _, name := range files {
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
			require.NoError(t, err)
			for _, constant := range constants(file) {
				limit := path.Base(pkg) + "." + constant
				if !strings.HasPrefix(constant, "Default") || slices.Contains(notLimits, limit) {
					continue
				}
				_, count := limits[limit]
				_, time := limits[limit+"_ms"]
				require.True(t, count || time, "%s is not in Limits", limit)
			}
		}
	}
}

func constants(file *ast.File) []string {
	var names []string
	for _, d := range file.Decls {
		group, ok := d.(*ast.GenDecl)
		if !ok || group.Tok != token.CONST {
			continue
		}
		for _, spec := range group.Specs {
			for _, name := range spec.(*ast.ValueSpec).Names {
				names = append(names, name.Name)
			}
		}
	}
	return names
}

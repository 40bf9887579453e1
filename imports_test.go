package wsmesh_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "github.com/wsmesh/wsmesh"

// room says what one package's code may import of ours. In pkg and may, "x/..."
// is x and all below it; of two rooms that fit, the narrower one holds.
type room struct {
	pkg string
	may []string
	why string
}

// The tests of a room may import more: what they must not is in owned.
var rooms = []room{
	{".", nil, "the root is documentation and the tests of the module's shape"},
	{"mesh", nil, "mesh is the vocabulary that all others share; it knows none of them"},
	{"mesh/auth", []string{"mesh"}, "who signs tokens needs names and nothing that could use a token"},
	{"mesh/natsd", []string{"mesh", "mesh/auth"}, "the server knows who may connect, not what they say"},
	{"mesh/meshtest", []string{"mesh", "mesh/auth", "mesh/natsd"}, "test servers serve the tests of every room, so they stand below all of them"},
	{"kv", []string{"mesh"}, "small records know nothing of those who keep them"},
	{"objstore", []string{"mesh"}, "content knows neither its owners nor where its bytes are kept"},
	{"objstore/...", []string{"objstore", "mesh"}, "a bucket or a mirror is an adapter behind objstore's seam: it sees the seam and not its neighbours"},
	{"objstore/s3test", nil, "a server for tests knows nothing of who asks it"},
	{"sandbox", []string{"mesh", "sandbox/inside"}, "running a command in a directory is complete without a mesh around it"},
	{"sandbox/inside", nil, "what is process 1 of a sandbox is linked into a tiny program: it must not grow by what a node needs"},
	{"sandbox/agent", []string{"sandbox/inside"}, "the agent runs inside the tenant's sandbox: what it does not link cannot be turned against us"},
	{"sandbox/sandboxtest", nil, "what was left is looked for from outside, not asked of who left it"},
	{"router", []string{"kv", "mesh"}, "placement is decided from records; a router that knew nodes' insides could not run beside them"},
	{"node", []string{"router", "sandbox", "objstore", "objstore/jsbucket", "objstore/dirtree", "objstore/mirror", "objstore/treefs", "kv", "mesh", "mesh/auth", "node/edit", "node/egress"}, "a node is built from the rooms below it, content in streams and directories among them, and is reached over NATS only"},
	{"node/onebox", []string{"node", "mesh/natsd", "mesh/auth", "mesh", "client"}, "one box assembles a server and a node, and returns a client's configuration"},
	{"node/edit", []string{"mesh"}, "what an edit makes of a text depends on the text and the edit, and on no file"},
	{"node/egress", []string{"mesh"}, "which hosts commands reach is decided apart from how they run, so that it can be read as a whole"},
	{"node/egress/egresstest", nil, "a name server for tests knows nothing of who asks it"},
	{"node/nodetest", []string{"node", "client", "mesh", "mesh/meshtest"}, "a node for tests is set up as the binary does it, on test servers"},
	{"client", []string{"mesh"}, "a program that imports the client must not carry a node or a server with it"},
	{"mcpgw", []string{"client", "mesh"}, "the gateway has no rights or logic of its own: whatever it does, it does through client"},
	{"cmd/...", []string{
		"mesh", "mesh/auth", "mesh/natsd", "kv", "objstore", "objstore/jsbucket", "objstore/s3bucket",
		"objstore/dirbucket", "objstore/mirror", "sandbox", "router", "node", "node/egress", "node/onebox", "client", "mcpgw", "cmd/...",
	}, "the binary assembles the rooms; test servers and chaos have no place in it"},
	{"chaos/...", []string{"client", "mesh", "chaos/..."}, "chaos judges the binaries that people run, through the client that people use"},
	{"chaos/mutants", nil, "what breaks the mesh on purpose must not depend on it"},
}

// owned names packages that only some rooms may import, whatever rooms says.
var owned = []struct {
	pkg     string   // an import path, for itself and all below it
	by      []string // rooms, as in room.pkg
	inTests bool     // the rule holds for test files as well
	why     string
}{
	{module + "/cmd", []string{"cmd/..."}, true, "a command is run, never imported"},
	{module + "/chaos", []string{"chaos/..."}, true, "chaos looks at the mesh from outside"},
	{"github.com/nats-io/nats-server", []string{"mesh/natsd"}, true, "the server's API moves with each release: one room follows it, and no client program links it"},
	{"github.com/mark3labs/mcp-go", []string{"mcpgw"}, true, "MCP is one front among others: no other room may bend to it"},
	{"github.com/aws", []string{"objstore/s3bucket"}, true, "S3 is one bucket among others: no other room may bend to it"},
	{"github.com/gofrs/flock", []string{"mesh/natsd", "node/...", "cmd/...", "objstore/dirbucket"}, false, "only who owns a data directory locks it, or has no other way to compare and set"},
	{"github.com/spf13", []string{"cmd/..."}, false, "flags and help belong to the command; a library is configured by a struct"},
	{"testing", testSupport, false, "test code has no place in the binary"},
	{"github.com/stretchr/testify", testSupport, false, "test code has no place in the binary"},
	{"go.uber.org/goleak", testSupport, false, "test code has no place in the binary"},
	{"pgregory.net/rapid", testSupport, false, "test code has no place in the binary"},
	{"github.com/rogpeppe/go-internal", testSupport, false, "test code has no place in the binary"},
}

var testSupport = []string{"mesh/meshtest", "node/nodetest", "sandbox/sandboxtest", "node/egress/egresstest", "objstore/buckettest", "objstore/s3test", "chaos/..."}

// outside limits what a room may import from other modules; a room that is not
// here may import what owned leaves free.
var outside = map[string]struct {
	may []string
	why string
}{
	"mesh":          {[]string{"github.com/nats-io/nats.go", "github.com/google/uuid"}, "every program that talks to a mesh links mesh: it costs them NATS and nothing more"},
	"mesh/auth":     {[]string{"github.com/nats-io/nats.go", "github.com/nats-io/jwt", "github.com/nats-io/nkeys"}, "what handles private keys is small enough to be read in full"},
	"chaos/mutants": {nil, "what breaks the mesh on purpose must not depend on it"},
}

// source is one parsed file of the module, whatever system it is built for.
type source struct {
	name string // slash-separated, below the root
	pkg  string // its directory, "." for the root
	test bool
	file *ast.File
}

var files = token.NewFileSet()

func sources(t *testing.T) []source {
	t.Helper()
	var all []source
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			// The names that the go command skips as well.
			base := d.Name()
			if name != "." && (strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_") || base == "testdata") {
				return fs.SkipDir
			}
			return nil
		}
		if path.Ext(name) != ".go" {
			return nil
		}
		f, err := parser.ParseFile(files, name, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		name = filepath.ToSlash(name)
		all = append(all, source{name: name, pkg: path.Dir(name), test: strings.HasSuffix(name, "_test.go"), file: f})
		return nil
	})
	require.NoError(t, err)
	require.NotEmpty(t, all)
	return all
}

// fits reports whether pkg is what pattern names.
func fits(pattern, pkg string) bool {
	if below, ok := strings.CutSuffix(pattern, "/..."); ok {
		return within(below, pkg)
	}
	return pattern == pkg
}

func within(dir, pkg string) bool { return pkg == dir || strings.HasPrefix(pkg, dir+"/") }

func fitsAny(patterns []string, pkg string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return fits(p, pkg) })
}

func roomOf(pkg string) (room, bool) {
	var best room
	for _, r := range rooms {
		if fits(r.pkg, pkg) && (best.pkg == "" || best.pkg != pkg && (r.pkg == pkg || len(r.pkg) > len(best.pkg))) {
			best = r
		}
	}
	return best, best.pkg != ""
}

func TestImportsPointOneWay(t *testing.T) {
	for _, s := range sources(t) {
		r, ok := roomOf(s.pkg)
		if !ok {
			t.Errorf("%s: package %s has no rule: give it one in rooms", s.name, s.pkg)
			continue
		}
		for _, spec := range s.file.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			require.NoError(t, err)
			if why := refusal(s, r, imported); why != "" {
				t.Errorf("%s: %s must not import %s: %s", files.Position(spec.Pos()), s.pkg, imported, why)
			}
		}
	}
}

// refusal says why file s of room r must not import a package; "" means it may.
func refusal(s source, r room, imported string) string {
	for _, o := range owned {
		if within(o.pkg, imported) && !fitsAny(o.by, s.pkg) && (o.inTests || !s.test) {
			return o.why
		}
	}
	if s.test {
		return ""
	}
	if within(module, imported) {
		of := "."
		if imported != module {
			of = strings.TrimPrefix(imported, module+"/")
		}
		if !fitsAny(r.may, of) {
			return r.why
		}
		return ""
	}
	limit, limited := outside[s.pkg]
	domain, _, _ := strings.Cut(imported, "/")
	fromStd := !strings.Contains(domain, ".")
	if limited && !fromStd && !slices.ContainsFunc(limit.may, func(m string) bool { return within(m, imported) }) {
		return limit.why
	}
	return ""
}

// One box hands out a client's configuration: were it to use the client, a
// program that embeds it would have a second connection it knows nothing of.
// Config and the file it is kept in are data.
func TestOneboxUsesOnlyTheConfigOfClient(t *testing.T) {
	allowed := []string{"Config", "File", "ReadFile"}
	for _, s := range sources(t) {
		if s.pkg != "node/onebox" || s.test {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			if sel, ok := n.(*ast.SelectorExpr); ok {
				if x, ok := sel.X.(*ast.Ident); ok && x.Name == "client" && !slices.Contains(allowed, sel.Sel.Name) {
					t.Errorf("%s: client.%s", files.Position(sel.Pos()), sel.Sel.Name)
				}
			}
			return true
		})
	}
}

func TestAgentHasNoNet(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "./sandbox/agent").CombinedOutput()
	require.NoError(t, err, "%s", out)
	for dep := range strings.Lines(string(out)) {
		require.False(t, within("net", strings.TrimSpace(dep)),
			"sandbox/agent links %s: it is PID 1 inside a tenant's sandbox, and talks through descriptors passed to it", dep)
	}
}

var subject = regexp.MustCompile(`(^|[^A-Za-z0-9])(ws|api|int|out|ev|node|admin)\.v1|_INBOX|\$KV\.|\$JS\.`)

// subjectsElsewhere are the string literals outside mesh that may spell out a
// subject.
var subjectsElsewhere = []struct {
	pkg     string
	literal *regexp.Regexp
	why     string
}{
	{"mesh/auth", subject, "permissions are patterns over subjects"},
	{"kv", regexp.MustCompile(`^\$KV\.$`), "NATS fixes how a bucket's key becomes a subject"},
}

func TestSubjectsAreWrittenInMeshOnly(t *testing.T) {
	for _, s := range sources(t) {
		if s.test || s.pkg == "mesh" {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
				text, err := strconv.Unquote(lit.Value)
				require.NoError(t, err)
				if subject.MatchString(text) && !mayWrite(s.pkg, text) {
					t.Errorf("%s: %s spells out a subject: mesh makes and parses them all, from parsed ids only", files.Position(lit.Pos()), lit.Value)
				}
			}
			return true
		})
	}
}

func mayWrite(pkg, text string) bool {
	for _, e := range subjectsElsewhere {
		if e.pkg == pkg && e.literal.MatchString(text) {
			return true
		}
	}
	return false
}

var vague = regexp.MustCompile(`(Session|Job|Instance|Manager|Handler|Service|Engine|Helper|Util)s?([^a-z]|$)`)

// vagueButGiven are exported names that someone else's interface or NATS micro
// asks for, and who asks.
var vagueButGiven = map[string]string{}

var vaguePackages = []string{
	"util", "utils", "common", "helper", "helpers", "models", "types", "pkg", "shared", "errors", "config", "mock", "mocks",
}

func TestNamesSayWhatThingsAre(t *testing.T) {
	for _, s := range sources(t) {
		if slices.Contains(vaguePackages, path.Base(s.pkg)) {
			t.Errorf("%s: a package called %s could hold anything", s.name, path.Base(s.pkg))
		}
		if s.test {
			continue
		}
		for _, name := range exported(s.file) {
			if vague.MatchString(name.Name) && vagueButGiven[name.Name] == "" {
				t.Errorf("%s: %s: the words of this module are tenant, workspace, node, route, exec, and so on", files.Position(name.Pos()), name.Name)
			}
		}
	}
}

// exported returns the exported functions, methods and types a file declares.
func exported(f *ast.File) []*ast.Ident {
	var names []*ast.Ident
	for _, d := range f.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			names = append(names, d.Name)
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				if ts, ok := spec.(*ast.TypeSpec); ok {
					names = append(names, ts.Name)
				}
			}
		}
	}
	return slices.DeleteFunc(names, func(n *ast.Ident) bool { return !n.IsExported() })
}

// The rules above are worth what they refuse.
func TestRulesRefuse(t *testing.T) {
	ours := func(p string) string { return module + "/" + p }
	cases := map[string]struct {
		file     string
		imported string
		refused  bool
	}{
		"mesh knows no one":                 {"mesh/id.go", ours("kv"), true},
		"mesh may use nats.go":              {"mesh/id.go", "github.com/nats-io/nats.go/jetstream", false},
		"mesh may use little else":          {"mesh/id.go", "golang.org/x/sync/errgroup", true},
		"mesh may use all of std":           {"mesh/id.go", "net/url", false},
		"client never imports node":         {"client/client.go", ours("node"), true},
		"client's tests may import onebox":  {"client/client_test.go", ours("node/onebox"), false},
		"node does not see buckets":         {"node/node.go", ours("objstore/s3bucket"), true},
		"node may use objstore":             {"node/node.go", ours("objstore"), false},
		"buckets do not see each other":     {"objstore/s3bucket/b.go", ours("objstore/jsbucket"), true},
		"cmd imports onebox":                {"cmd/wsmesh/dev.go", ours("node/onebox"), false},
		"cmd imports its own parts":         {"cmd/wsmesh/main.go", ours("cmd/wsmesh/bench"), false},
		"cmd does not import test servers":  {"cmd/wsmesh/dev.go", ours("mesh/meshtest"), true},
		"nobody imports cmd, even in tests": {"node/node_test.go", ours("cmd/wsmesh/bench"), true},
		"nobody imports chaos":              {"cmd/wsmesh/main.go", ours("chaos"), true},
		"chaos goes through client":         {"chaos/run.go", ours("node"), true},
		"mutants stand alone":               {"chaos/mutants/main.go", ours("client"), true},
		"nats-server, even in tests":        {"kv/kv_test.go", "github.com/nats-io/nats-server/v2/server", true},
		"natsd holds nats-server":           {"mesh/natsd/server.go", "github.com/nats-io/nats-server/v2/server", false},
		"mcp-go, even in tests":             {"cmd/wsmesh/mcp_test.go", "github.com/mark3labs/mcp-go/client", true},
		"the AWS SDK, even in tests":        {"objstore/mirror/m_test.go", "github.com/aws/aws-sdk-go-v2/service/s3", true},
		"testify in code":                   {"node/node.go", "github.com/stretchr/testify/require", true},
		"testify in tests":                  {"node/node_test.go", "github.com/stretchr/testify/require", false},
		"testify in test servers":           {"mesh/meshtest/meshtest.go", "github.com/stretchr/testify/require", false},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			s := source{name: c.file, pkg: path.Dir(c.file), test: strings.HasSuffix(c.file, "_test.go")}
			r, ok := roomOf(s.pkg)
			require.True(t, ok)
			require.Equal(t, c.refused, refusal(s, r, c.imported) != "", fmt.Sprintf("%+v", r))
		})
	}
	_, ok := roomOf("attic")
	require.False(t, ok, "a package without a rule is refused")
}

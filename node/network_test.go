package node_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/mesh/meshtest"
	"github.com/wsmesh/wsmesh/node"
	"github.com/wsmesh/wsmesh/node/egress/egresstest"
	"github.com/wsmesh/wsmesh/node/nodetest"
)

// What a command has is the least of what the mesh, its workspace and itself say,
// and to ask for more is denied.
func TestNetworkIsTheLeast(t *testing.T) {
	nodetest.LocalWith(t, nodetest.Config{Net: "allow:a.test,*.b.test"}, func(t *testing.T, m *nodetest.Mesh) {
		nodetest.Commands(t)
		ctx := t.Context()
		for name, net := range map[string]string{"unsaid": "", "none": "none", "a": "allow:A.test."} {
			require.NoError(t, m.Client.CreateWorkspaceWith(ctx, name, client.WorkspaceConfig{Net: net}))
		}
		for net, code := range map[string]mesh.Code{"full": mesh.CodeDenied, "allow:c.test": mesh.CodeDenied, "allow:a.test:22": mesh.CodeDenied, "some": mesh.CodeInvalid} {
			err := m.Client.CreateWorkspaceWith(ctx, "more", client.WorkspaceConfig{Net: net})
			require.Equal(t, code, mesh.CodeOf(err), "%s: %v", net, err)
		}
		for _, c := range []struct {
			workspace, asked, had string
			code                  mesh.Code
		}{
			{"unsaid", "", "none", ""}, // what the mesh gives when nobody asks
			{"unsaid", "allow:a.test,x.b.test", "allow:a.test,x.b.test", ""},
			{"unsaid", "allow:a.test:443", "allow:a.test:443", ""},
			{"unsaid", "full", "", mesh.CodeDenied},
			{"unsaid", "allow:b.test", "", mesh.CodeDenied},
			{"unsaid", "allow:*", "", mesh.CodeDenied},
			{"none", "", "none", ""},
			{"none", "allow:a.test", "", mesh.CodeDenied},
			{"a", "", "allow:a.test", ""},
			{"a", "none", "none", ""},
			{"a", "allow:a.test:80", "allow:a.test:80", ""},
			{"a", "allow:x.b.test", "", mesh.CodeDenied},
		} {
			cmd := m.Client.Workspace(c.workspace).Command(ctx, "sh", "-c", "echo $https_proxy")
			cmd.Net = c.asked
			out, err := cmd.Output()
			require.Equal(t, c.code, mesh.CodeOf(err), "%v: %v", c, err)
			if c.code != "" {
				require.ErrorContains(t, err, "--net")
				continue
			}
			require.Equal(t, c.had, cmd.Final().Net, "%v", c)
			require.Equal(t, strings.HasPrefix(c.had, "allow:"), string(out) != "\n", "%v", c)
		}
		info, err := m.Client.Workspace("a").Info(ctx)
		require.NoError(t, err)
		require.Equal(t, "allow:a.test", info.Net)
		var status mesh.StatusReply
		require.NoError(t, m.Ask(t, mesh.VerbAdminStatus, struct{}{}, &status))
		require.Equal(t, "allow:*.b.test,a.test", status.Nodes[0].Net)
	})
}

// A node does not grant what it cannot hold, nor what nobody can read.
func TestNetworkOfANode(t *testing.T) {
	servers := meshtest.Server(t)
	for name, c := range map[string]struct {
		cfg  node.Config
		code mesh.Code
	}{
		"hosts without isolation":  {node.Config{Isolation: "none", MaxNet: "allow:a.test"}, mesh.CodeUnsupported},
		"unknown":                  {node.Config{MaxNet: "some"}, mesh.CodeInvalid},
		"more by default than may": {node.Config{Net: "allow:a.test", MaxNet: "allow:b.test"}, mesh.CodeInvalid},
		"an exception by name":     {node.Config{NetExcept: []string{"localhost:80"}}, mesh.CodeInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			c.cfg.Name, c.cfg.Data = nodetest.NodeName, t.TempDir()
			c.cfg.Door, c.cfg.Store = servers.Door(t, c.cfg.Name), servers.Store(t, c.cfg.Name)
			_, err := node.New(t.Context(), c.cfg)
			require.Equal(t, c.code, mesh.CodeOf(err), "%v", err)
		})
	}
}

// web is what a project needs of the network: a git server with TLS and a registry
// of packages.
type web struct {
	git, registry *httptest.Server
	ca            []byte
}

func newWeb(t *testing.T) *web {
	t.Helper()
	backend := filepath.Join(gitPath(t), "git-http-backend")
	repos := t.TempDir()
	makeRepo(t, filepath.Join(repos, "app.git"))
	w := &web{git: httptest.NewTLSServer(&cgi.Handler{
		Path: backend, Root: "/", Env: []string{
			"GIT_PROJECT_ROOT=" + repos, "GIT_HTTP_EXPORT_ALL=1", "HOME=" + repos,
			"GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*",
		},
		Stderr: t.Output(),
	})}
	t.Cleanup(w.git.Close)
	w.registry = httptest.NewServer(http.HandlerFunc(w.packages))
	t.Cleanup(w.registry.Close)
	w.ca = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: w.git.Certificate().Raw})
	return w
}

func gitPath(t *testing.T) string {
	out, err := exec.Command("git", "--exec-path").Output()
	nodetest.Need(t, err == nil, "git", "git is missing")
	return strings.TrimSpace(string(out))
}

// project is what is cloned: its build uses its one dependency.
var project = map[string]string{
	"package.json": `{"name": "app", "version": "1.0.0", "scripts": {"build": "node build.js"}, "dependencies": {"greeting": "^1.0.0"}}`,
	"build.js":     `require("fs").writeFileSync("out.txt", require("greeting")("mesh") + "\n")`,
}

// greeting is that dependency.
var greeting = map[string]string{
	"package/package.json": `{"name": "greeting", "version": "1.0.0", "main": "index.js"}`,
	"package/index.js":     `module.exports = who => "hello " + who`,
}

func makeRepo(t *testing.T, bare string) {
	t.Helper()
	work := t.TempDir()
	for name, text := range project {
		require.NoError(t, os.WriteFile(filepath.Join(work, name), []byte(text), 0o644))
	}
	for _, args := range [][]string{
		{"-C", work, "init", "-q", "-b", "main"},
		{"-C", work, "add", "."},
		{"-C", work, "-c", "user.name=a", "-c", "user.email=a@example.com", "commit", "-qm", "one"},
		{"clone", "-q", "--bare", work, bare},
	} {
		out, err := exec.Command("git", args...).CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
}

func (w *web) packages(rw http.ResponseWriter, r *http.Request) {
	archive := archiveOf(greeting)
	switch r.URL.Path {
	case "/greeting":
		sum := sha512.Sum512(archive)
		json.NewEncoder(rw).Encode(map[string]any{
			"name": "greeting", "dist-tags": map[string]string{"latest": "1.0.0"},
			"versions": map[string]any{"1.0.0": map[string]any{
				"name": "greeting", "version": "1.0.0", "dist": map[string]string{
					"tarball":   "http://" + r.Host + "/greeting/-/greeting-1.0.0.tgz",
					"integrity": "sha512-" + base64.StdEncoding.EncodeToString(sum[:]),
				},
			}},
		})
	case "/greeting/-/greeting-1.0.0.tgz":
		rw.Write(archive)
	default:
		http.NotFound(rw, r)
	}
}

func archiveOf(files map[string]string) []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for _, name := range []string{"package/package.json", "package/index.js"} {
		w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(files[name]))})
		io.WriteString(w, files[name])
	}
	w.Close()
	z.Close()
	return b.Bytes()
}

func port(s *httptest.Server) string {
	_, port, _ := net.SplitHostPort(s.Listener.Addr().String())
	return port
}

// A project is cloned over TLS, its packages are installed over plain HTTP, and it
// is built; nothing but those two servers is reached.
func TestNetworkOfAProject(t *testing.T) {
	nodetest.Commands(t)
	_, err := exec.LookPath("npm")
	nodetest.Need(t, err == nil, "npm", "npm is missing")
	w := newWeb(t)
	secret := httptest.NewServer(http.NotFoundHandler())
	defer secret.Close()
	git, registry := "example.com:"+port(w.git), "registry.test:"+port(w.registry)
	cfg := nodetest.Config{
		Net:       "allow:*.test,example.com,secret.test:" + port(secret) + "," + git + "," + registry,
		NetExcept: []string{"127.0.0.1:" + port(w.git), "127.0.0.1:" + port(w.registry)},
		Resolver: egresstest.Resolver(t, egresstest.Names(map[string]string{
			"example.com": "127.0.0.1", "registry.test": "127.0.0.1", "secret.test": "127.0.0.1", "metadata.test": "169.254.169.254",
		})),
	}
	test := func(t *testing.T, m *nodetest.Mesh) {
		ctx, ws := t.Context(), m.Client.Workspace("w")
		require.NoError(t, ws.WriteFile(ctx, "ca.pem", w.ca, 0o644))
		run := func(net, line string) (out string, final *mesh.Final, hint string) {
			t.Helper()
			cmd := ws.Command(ctx, "sh", "-c", line)
			cmd.Net = net
			cmd.Env = []string{"GIT_SSL_CAINFO=/workspace/ca.pem", "npm_config_registry=http://" + registry, "npm_config_fetch_retries=0"}
			var errs bytes.Buffer
			var outs bytes.Buffer
			cmd.Stdout, cmd.Stderr = &outs, &errs
			err := cmd.Run()
			require.NotNil(t, cmd.Final(), "%v", err)
			t.Logf("%s\n%s%s", line, outs.String(), errs.String())
			return outs.String(), cmd.Final(), client.NetworkHint(cmd.Final(), errs.Bytes())
		}
		out, final, hint := run("allow:"+git+","+registry, fmt.Sprintf(
			"set -e; rm -rf app; git clone -q https://%s/app.git; cd app; npm install --no-audit --no-fund --no-update-notifier >&2; npm run -s build; cat out.txt", git))
		require.Equal(t, "hello mesh\n", out)
		require.Empty(t, final.Refused)
		require.Empty(t, hint)

		_, final, hint = run("allow:*.test", "git clone -q https://"+git+"/app.git other")
		require.NotZero(t, final.Code)
		require.Equal(t, []string{git}, final.Refused)
		require.Contains(t, hint, "--net allow:"+git)

		for _, at := range []string{"secret.test:" + port(secret), "metadata.test:80"} {
			_, final, _ = run("allow:"+at, "git clone -q http://"+at+"/app.git other")
			require.NotZero(t, final.Code)
			require.Equal(t, []string{at}, final.Refused)
		}

		for _, line := range []string{"git clone -q https://" + git + "/app.git other", "cd app && rm -rf node_modules && npm install --cache /tmp/cache"} {
			_, final, hint = run("none", line)
			require.NotZero(t, final.Code)
			require.Contains(t, hint, "--net allow:HOST", line)
		}
		_, _, hint = run("none", "echo no such file >&2; exit 1")
		require.Empty(t, hint)

		var status struct {
			Nodes []struct {
				Egress struct{ Allowed, Refused, Sent, Received int64 }
			}
		}
		require.NoError(t, m.Ask(t, mesh.VerbAdminStatus, struct{}{}, &status))
		require.Positive(t, status.Nodes[0].Egress.Allowed)
		require.Positive(t, status.Nodes[0].Egress.Received)
		require.EqualValues(t, 3, status.Nodes[0].Egress.Refused)
	}
	nodetest.LocalWith(t, cfg, test)
}

// A name is found by the node and not in the sandbox, and TLS is between the command
// and the host: the certificate is checked against the name.
func TestNamesAndTLS(t *testing.T) {
	nodetest.Commands(t)
	_, err := exec.LookPath("python3")
	nodetest.Need(t, err == nil, "python3", "python3 is missing")
	secure := httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { io.WriteString(rw, "hello "+r.Host) }))
	defer secure.Close()
	at := func(name string) string { return name + ":" + port(secure) }
	m := nodetest.Start(t, meshtest.Server(t), nodetest.Config{
		Net: "allow:" + at("example.com") + "," + at("other.test") + "," + at("nowhere.test"), NetExcept: []string{"127.0.0.1:" + port(secure)},
		Resolver: egresstest.Resolver(t, egresstest.Names(map[string]string{"example.com": "127.0.0.1", "other.test": "127.0.0.1"})),
	})
	ctx, ws := t.Context(), m.Client.Workspace("w")
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw})
	require.NoError(t, ws.WriteFile(ctx, "ca.pem", ca, 0o644))
	for name, want := range map[string]string{
		at("example.com"):  "hello " + at("example.com"),
		at("other.test"):   "CERTIFICATE_VERIFY_FAILED",
		at("nowhere.test"): "502",
		"example.com:1":    "403",
	} {
		cmd := ws.Command(ctx, "python3", "-c", `
import socket, ssl, sys, urllib.request
try:
    socket.getaddrinfo(sys.argv[1].split(":")[0], 443)
    print("found inside")
except socket.gaierror:
    pass
try:
    print(urllib.request.urlopen("https://" + sys.argv[1], context=ssl.create_default_context(cafile="ca.pem"), timeout=20).read().decode())
except OSError as e:
    print(e)`, name)
		cmd.Net = "allow:" + at("example.com") + "," + at("other.test") + "," + at("nowhere.test")
		out, err := cmd.Output()
		require.NoError(t, err)
		require.Contains(t, string(out), want, name)
		require.NotContains(t, string(out), "found inside")
	}
}

// The NATS servers are out of reach, whatever the operator excepts.
func TestNetworkWithoutTheMesh(t *testing.T) {
	nodetest.Commands(t)
	gitPath(t)
	meshtest.Each(t, func(t *testing.T, servers *meshtest.Mesh) {
		var hosts []string
		for url := range strings.SplitSeq(servers.URL(), ",") {
			_, port, err := net.SplitHostPort(strings.TrimPrefix(url, "nats://"))
			require.NoError(t, err)
			hosts = append(hosts, "mesh.test:"+port)
		}
		m := nodetest.Start(t, servers, nodetest.Config{
			Net: "allow:" + strings.Join(hosts, ","), NetExcept: []string{"127.0.0.0/8"},
			Resolver: egresstest.Resolver(t, egresstest.Names(map[string]string{"mesh.test": "127.0.0.1"})),
		})
		for _, at := range hosts {
			cmd := m.Client.Workspace("w").Command(t.Context(), "git", "ls-remote", "http://"+at+"/x")
			cmd.Net = "allow:" + at
			require.Error(t, cmd.Run())
			require.Equal(t, []string{at}, cmd.Final().Refused)
		}
	})
}

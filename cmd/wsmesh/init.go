package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/wsmesh/wsmesh/client"
	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/mesh/auth"
	"github.com/wsmesh/wsmesh/mesh/natsd"
)

const (
	// meshShards is how many streams of each kind a mesh has: a workspace stays in
	// its own for ever, so that the number is chosen once.
	meshShards = 4
	// clusterPorts is how far a server's port for other servers is from that for
	// clients.
	clusterPorts = 2000
)

type initFlags struct {
	dir, host string
	gateway   string
	servers   int
	port      int
}

func newInit() *cobra.Command {
	var i initFlags
	cmd := &cobra.Command{
		Use:   "init --dir DIR",
		Short: "Make the keys, certificates and configuration of a mesh of several machines",
		Long: "Make the keys, certificates and configuration of a mesh of several machines. Nothing is started. DIR gets\n" +
			"nats-1.conf … for `wsmesh nats`, node.creds, gateway.creds, admin.creds and nats.creds, the certificates, and client.json\n" +
			"for a first tenant dev; what it prints says who needs which. Server i listens on --port + i - 1, and for other\n" +
			"servers 2000 above that. --host names where servers are reached: one host for all, or one for each, with commas\n" +
			"between. On loopback there is no TLS.",
		Args: between(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error { return i.run(cmd) },
	}
	f := cmd.Flags()
	f.StringVar(&i.dir, "dir", "", "`DIR`, which must be empty or not exist")
	f.IntVar(&i.servers, "servers", 3, "how many NATS servers: 1, 3 or 5")
	f.StringVar(&i.host, "host", "127.0.0.1", "`HOST` of the servers, a name or an address, or one for each with commas between")
	f.StringVar(&i.gateway, "gateway-host", "localhost,127.0.0.1", "`HOST` at which gateways are reached, or several with commas between: what their certificate is for")
	f.IntVar(&i.port, "port", 4222, "port of the first server")
	return cmd
}

// check returns the host of each server.
func (i *initFlags) check(cmd *cobra.Command) ([]string, error) {
	switch {
	case i.dir == "":
		return nil, wrongUse(cmd, "--dir is missing")
	case i.servers != 1 && i.servers != 3 && i.servers != 5:
		return nil, wrongUse(cmd, "--servers %d is not 1, 3 or 5: with an even number one more can fail no more than without it", i.servers)
	case i.port < 1 || i.port+i.servers-1+clusterPorts > 65535:
		return nil, wrongUse(cmd, "--port %d: the ports of the servers, and those 2000 above, are not all 1 to 65535", i.port)
	}
	hosts := strings.Split(i.host, ",")
	if len(hosts) == 1 {
		for len(hosts) < i.servers {
			hosts = append(hosts, hosts[0])
		}
	}
	if len(hosts) != i.servers {
		return nil, wrongUse(cmd, "--host names %d hosts for %d servers; name one, or one for each", len(hosts), i.servers)
	}
	for h := range strings.SplitSeq(i.gateway, ",") {
		if net.ParseIP(h) == nil && !hostName(h) {
			return nil, wrongUse(cmd, "--gateway-host %q is neither a name nor an address", h)
		}
	}
	loopback := 0
	for n, h := range hosts {
		ip := net.ParseIP(h)
		if ip != nil && ip.IsUnspecified() || ip == nil && !hostName(h) {
			return nil, wrongUse(cmd, "--host %q is neither a name nor an address at which others reach the server", h)
		}
		if ip != nil {
			hosts[n] = ip.String()
		}
		if isLoopback(h) {
			loopback++
		}
	}
	if loopback != 0 && loopback != len(hosts) {
		return nil, wrongUse(cmd, "--host %s: some servers would be reached from their own machine only", i.host)
	}
	return hosts, nil
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// hostName reports whether s can be a name in the DNS.
func hostName(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || strings.Trim(label, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-") != "" || label[0] == '-' {
			return false
		}
	}
	return true
}

func (i *initFlags) run(cmd *cobra.Command) error {
	hosts, err := i.check(cmd)
	if err != nil {
		return err
	}
	if err := emptyDir(i.dir); err != nil {
		return err
	}
	keys, err := auth.LoadOrCreate(filepath.Join(i.dir, "keys"))
	if err != nil {
		return local(err)
	}
	m := &newMesh{dir: i.dir, hosts: hosts, gateways: strings.Split(i.gateway, ","), port: i.port, keys: keys, secure: !isLoopback(hosts[0])}
	if err := m.write(); err != nil {
		return local(err)
	}
	m.explain(cmd)
	return nil
}

// emptyDir makes the directory. One that has something in it may be a mesh, whose keys
// must not be replaced.
func emptyDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return local(err)
	}
	all, err := os.ReadDir(dir)
	if err != nil {
		return local(err)
	}
	if len(all) > 0 {
		return mesh.Errorf(mesh.CodeExists, "%s is not empty; the keys of a mesh are made once: name another directory", dir)
	}
	return local(os.Chmod(dir, 0o700))
}

// newMesh writes the files of a mesh.
type newMesh struct {
	dir      string
	hosts    []string // of each server
	gateways []string // hosts
	port     int      // of the first server
	secure   bool
	keys     *auth.Keys
	ca       *auth.CA
}

func (m *newMesh) write() error {
	if m.secure {
		ca, pair, err := auth.NewCA()
		if err != nil {
			return err
		}
		m.ca = ca
		if err := errors.Join(m.file(auth.CAFile, pair.Cert, 0o644), m.file(filepath.Join("keys", "ca.key"), pair.Key, 0o600)); err != nil {
			return err
		}
		pair, err = ca.Server(m.gateways...) // of no server of NATS: a gateway is none to anybody
		if err := errors.Join(err, m.pair("gateway", pair)); err != nil {
			return err
		}
	}
	for n := range m.hosts {
		if err := m.server(n); err != nil {
			return err
		}
	}
	return m.credentials()
}

func (m *newMesh) file(name string, content []byte, mode fs.FileMode) error {
	path := filepath.Join(m.dir, name)
	if err := os.WriteFile(path, content, mode); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return os.Chmod(path, mode) // whatever the umask
}

// pair writes a certificate and its key.
func (m *newMesh) pair(name string, p auth.Pair) error {
	return errors.Join(m.file(name+".pem", p.Cert, 0o644), m.file(name+".key", p.Key, 0o600))
}

// server writes the files of server n, which is the first with 0.
func (m *newMesh) server(n int) error {
	name := fmt.Sprintf("nats-%d", n+1)
	cfg := natsd.Config{Name: name, Dir: name, Host: m.hosts[n], Port: m.port + n, Keys: m.keys}
	if len(m.hosts) > 1 {
		cfg.Cluster = &natsd.Cluster{Name: "wsmesh", Port: cfg.Port + clusterPorts}
		for i, h := range m.hosts {
			cfg.Cluster.Routes = append(cfg.Cluster.Routes, net.JoinHostPort(h, strconv.Itoa(m.port+i+clusterPorts)))
		}
	}
	var files *natsd.TLS
	if m.secure {
		pair, err := m.ca.Peer(m.hosts[n])
		if err := errors.Join(err, m.pair(name, pair)); err != nil {
			return err
		}
		files = &natsd.TLS{Cert: name + ".pem", Key: name + ".key", CA: auth.CAFile}
	}
	text, err := cfg.File(files)
	if err != nil {
		return err
	}
	return m.file(name+".conf", text, 0o600)
}

// url is where all servers are reached.
func (m *newMesh) url() string {
	scheme := "nats://"
	if m.secure {
		scheme = "tls://"
	}
	var all []string
	for i, h := range m.hosts {
		all = append(all, scheme+net.JoinHostPort(h, strconv.Itoa(m.port+i)))
	}
	return strings.Join(all, ",")
}

// credentials writes those of nodes, gateways, the operator and the first tenant. The
// first tenant's token is issued here: there is no mesh yet that could.
func (m *newMesh) credentials() error {
	signer := m.keys.Signer()
	token, err := signer.Tenant(auth.TokenSpec{Tenant: defaultTenant, Generation: auth.FirstGeneration})
	if err != nil {
		return err
	}
	node := auth.NodeCreds{
		Signer: signer, Storage: mesh.Storage{Shards: meshShards, Replicas: min(3, len(m.hosts))},
		First: auth.FirstToken{Tenant: token.Tenant, ID: token.ID, User: token.User, Issued: token.Issued.UTC()},
	}
	nodeFile, err := node.Encode()
	if err != nil {
		return err
	}
	clientFile, err := json.Marshal(client.File{URL: m.url(), Token: token.JWT})
	if err != nil {
		return err
	}
	if err := errors.Join(m.file("node.creds", nodeFile, 0o600), m.file("client.json", append(clientFile, '\n'), 0o600)); err != nil {
		return err
	}
	for _, who := range []struct {
		file  string
		issue func() (auth.Creds, error)
	}{{"gateway.creds", signer.Gateway}, {"nats.creds", signer.Streams}, {"admin.creds", signer.Admin}} { // the operator's last: with it all is there
		creds, err := who.issue()
		if err != nil {
			return err
		}
		content, err := creds.Encode()
		if err := errors.Join(err, m.file(who.file, content, 0o600)); err != nil {
			return err
		}
	}
	return nil
}

// explain says who needs what, and how to start it.
func (m *newMesh) explain(cmd *cobra.Command) {
	at := func(name string) string { return shellQuote(filepath.Join(m.dir, name)) }
	also, gateway := "", "127.0.0.1:8080"
	tls := ""
	if m.secure {
		also, gateway = ", "+auth.CAFile, ":8080"
		tls = " --tls-cert " + at("gateway.pem") + " --tls-key " + at("gateway.key")
	}
	p := func(format string, args ...any) { fmt.Fprintf(cmd.OutOrStdout(), format+"\n", args...) }
	p("the mesh is at %s", m.url())
	p("on the machine of each server, with its nats-N.conf%s:", map[bool]string{true: ", nats-N.pem, nats-N.key" + also, false: ""}[m.secure])
	for n := range m.hosts {
		p("  wsmesh nats --config %s", at(fmt.Sprintf("nats-%d.conf", n+1)))
	}
	p("on each machine that hosts workspaces, with node.creds%s:", also)
	p("  wsmesh node --nats %s --creds %s --data /var/lib/wsmesh", m.url(), at("node.creds"))
	p("where agents reach it by MCP, with gateway.creds%s:", map[bool]string{true: ", gateway.pem, gateway.key" + also, false: ""}[m.secure])
	p("  wsmesh gateway --nats %s --creds %s --http %s%s", m.url(), at("gateway.creds"), gateway, tls)
	p("for the operator, with admin.creds, client.json%s:", also)
	p("  wsmesh status --data %s", shellQuote(m.dir))
	p("for the tools of NATS, which have all streams in their hands with it: nats.creds%s", also)
	p("%s stays here and in a backup: who has it owns the mesh", at("keys"))
}

package natsd

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/mesh/auth"
)

// What the file says is what Start does.
func TestFileSaysWhatStartDoes(t *testing.T) {
	t.Chdir(t.TempDir()) // a directory is made where the file is read
	keys, err := auth.LoadOrCreate(filepath.Join(t.TempDir(), "keys"))
	require.NoError(t, err)
	for _, sync := range []string{SyncAlways, SyncInterval} {
		cfg := Config{
			Dir: "data", Port: 4222, Sync: sync, Keys: keys, Name: "nats-1",
			Cluster: &Cluster{Name: "wsmesh", Port: 6222, Routes: []string{"127.0.0.1:6222", "127.0.0.1:6223"}},
		}
		text, err := cfg.File(nil)
		require.NoError(t, err)
		path := filepath.Join(t.TempDir(), "nats.conf")
		require.NoError(t, os.WriteFile(path, text, 0o600))
		read, err := server.ProcessConfigFile(path)
		require.NoError(t, err, string(text))
		defer read.AccountResolver.Close()
		ours(read)
		cfg.setDefaults()
		direct, err := cfg.options()
		require.NoError(t, err)
		for _, field := range []string{
			"ServerName", "Host", "Port", "SystemAccount", "JetStream", "StoreDir", "SyncAlways", "SyncInterval", "MaxPayload", "MaxPending",
			"PingInterval", "MaxPingsOut", "WriteDeadline", "LameDuckDuration", "LameDuckGracePeriod", "Routes", "NoSigs",
		} {
			require.Equal(t, reflect.ValueOf(direct).Elem().FieldByName(field).Interface(), reflect.ValueOf(read).Elem().FieldByName(field).Interface(), field)
		}
		for _, field := range []string{"Name", "Host", "Port", "Username", "Password", "PingInterval", "MaxPingsOut"} {
			require.Equal(t, reflect.ValueOf(direct.Cluster).FieldByName(field).Interface(), reflect.ValueOf(read.Cluster).FieldByName(field).Interface(), "cluster "+field)
		}
		require.Len(t, read.TrustedOperators, 1)
		require.Equal(t, keys.Operator().Subject, read.TrustedOperators[0].Subject)
	}
}

func TestFileIsChecked(t *testing.T) {
	t.Chdir(t.TempDir())
	keys, err := auth.LoadOrCreate(filepath.Join(t.TempDir(), "keys"))
	require.NoError(t, err)
	_, err = (&Config{Dir: "d", Port: 4222, Keys: keys, Host: "10.0.0.1"}).File(nil)
	require.Equal(t, mesh.CodeUnsupported, mesh.CodeOf(err), "%v", err)
	whole, err := (&Config{Dir: "d", Port: 4222, Keys: keys}).File(nil)
	require.NoError(t, err)
	for _, c := range []struct {
		name, text string
		code       mesh.Code
	}{
		{"no file", "", mesh.CodeInvalid},
		{"not of a mesh", "port: 4222\n", mesh.CodeInvalid},
		{"no configuration", "{{{", mesh.CodeInvalid},
		{"in plain text beyond the machine", string(whole) + "\nhost: \"0.0.0.0\"\n", mesh.CodeUnsupported},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "nats.conf")
			if c.text != "" {
				require.NoError(t, os.WriteFile(path, []byte(c.text), 0o600))
			}
			_, err := StartFile(path, slog.New(slog.DiscardHandler))
			require.Equal(t, c.code, mesh.CodeOf(err), "%v", err)
		})
	}
}

// Three servers by their files, with TLS: they form a cluster, clients that trust the
// mesh's CA get in, others and plain text do not, and neither does a server without a
// certificate of the mesh.
func TestServersOfFilesWithTLS(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir) // the files name others beside them
	keys, err := auth.LoadOrCreate(filepath.Join(dir, "keys"))
	require.NoError(t, err)
	ca, vouch, err := auth.NewCA()
	require.NoError(t, err)
	require.NoError(t, os.WriteFile("ca.pem", vouch.Cert, 0o600))
	ports := freePorts(t, 6)
	files := func(i int, ca *auth.CA) string {
		pair, err := ca.Peer("127.0.0.1")
		require.NoError(t, err)
		name := fmt.Sprintf("nats-%d", i)
		require.NoError(t, os.WriteFile(name+".pem", pair.Cert, 0o600))
		require.NoError(t, os.WriteFile(name+".key", pair.Key, 0o600))
		cfg := Config{Dir: name, Port: ports[i], Keys: keys, Name: name, Cluster: &Cluster{Name: "wsmesh", Port: ports[i+3]}}
		for _, p := range ports[3:] {
			cfg.Cluster.Routes = append(cfg.Cluster.Routes, hostPort("127.0.0.1", p))
		}
		text, err := cfg.File(&TLS{Cert: name + ".pem", Key: name + ".key", CA: "ca.pem"})
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(name+".conf", text, 0o600))
		return name + ".conf"
	}
	var servers []*Server
	for i := range 3 {
		s, err := StartFile(files(i, ca), slog.New(slog.DiscardHandler))
		require.NoError(t, err)
		t.Cleanup(s.Kill)
		servers = append(servers, s)
	}
	for _, s := range servers {
		require.Eventually(t, s.Ready, 30*time.Second, 20*time.Millisecond)
	}
	creds, err := keys.Signer().Streams()
	require.NoError(t, err)
	connect := func(url string, opts ...nats.Option) (*nats.Conn, error) {
		return nats.Connect(url, append(opts, creds.Option(), nats.NoReconnect())...)
	}
	url := fmt.Sprintf("tls://127.0.0.1:%d", ports[0])
	pool := x509.NewCertPool()
	require.True(t, pool.AppendCertsFromPEM(vouch.Cert))
	nc, err := connect(url, nats.Secure(&tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}))
	require.NoError(t, err)
	defer nc.Close()
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	require.NoError(t, mesh.EnsureStreams(t.Context(), js, mesh.Storage{Shards: 1, Replicas: 3}))
	_, err = connect(url)
	require.Error(t, err, "a client that does not know the CA")
	plain, err := connect(fmt.Sprintf("nats://127.0.0.1:%d", ports[0]))
	if err == nil { // the library has found out that the server wants TLS, and who it is
		plain.Close()
	}
	require.Error(t, err, "plain text")

	// What is revoked while a server is away it learns from the others.
	token, err := keys.Signer().Tenant(auth.TokenSpec{Tenant: "dev", Generation: auth.FirstGeneration})
	require.NoError(t, err)
	enters := func(i int) error {
		nc, err := nats.Connect(fmt.Sprintf("tls://127.0.0.1:%d", ports[i]), mesh.TokenOption(token.JWT), nats.NoReconnect(), nats.Secure(&tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}))
		if err == nil {
			nc.Close()
		}
		return err
	}
	require.NoError(t, enters(2))
	servers[2].Kill()
	changed, err := auth.Revoke(filepath.Join(dir, "keys"), []auth.Revoked{{User: token.User, At: time.Now()}})
	require.NoError(t, err)
	system, err := changed.Accounts()
	require.NoError(t, err)
	as, err := nats.Connect(url, system.Option(), nats.CustomInboxPrefix(system.Inbox), nats.Secure(&tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}))
	require.NoError(t, err)
	defer as.Close()
	_, err = as.Request(auth.UpdateSubject(changed.Mesh().ID), []byte(changed.Mesh().JWT), 10*time.Second)
	require.NoError(t, err)
	require.NoError(t, as.Publish("$SYS.REQ.SERVER.PING", nil))
	require.NoError(t, as.FlushTimeout(10*time.Second))
	require.ErrorIs(t, as.LastError(), nats.ErrPermissionViolation, "they may do nothing else")
	require.Error(t, enters(0))
	servers[2], err = StartFile("nats-2.conf", slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	t.Cleanup(servers[2].Kill)
	require.Eventually(t, func() bool { return enters(2) != nil }, 30*time.Second, 50*time.Millisecond)

	// A server with all secrets but a certificate of the mesh stays outside.
	servers[2].Kill()
	require.NoError(t, os.RemoveAll("nats-2"))
	other, _, err := auth.NewCA()
	require.NoError(t, err)
	foreign, err := StartFile(files(2, other), slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	defer foreign.Kill()
	require.Never(t, foreign.Ready, 2*time.Second, 100*time.Millisecond)
	require.Zero(t, foreign.srv.NumRoutes())
}

func freePorts(t *testing.T, n int) (ports []int) {
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		defer l.Close()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports
}

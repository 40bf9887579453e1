package natsd

import (
	"bytes"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"text/template"
	"time"

	"github.com/nats-io/nats-server/v2/conf"
	"github.com/nats-io/nats-server/v2/server"

	"github.com/wsmesh/wsmesh/mesh"
)

// TLS names the files, in PEM, with which a server shows clients and other servers
// who it is, and who vouches for the others.
type TLS struct{ Cert, Key, CA string }

// File returns the configuration file of a server, which other programs that run
// NATS servers take too; it holds a secret. Names of files in it are as they are
// given, and StartFile takes them relative to the directory of the file.
//
// Host is how others reach the server: an address, on which it listens, or a name,
// and then it listens on every address of its machine. Without TLS it is loopback.
func (c *Config) File(tls *TLS) ([]byte, error) {
	f := *c
	f.setDefaults()
	if err := f.check(); err != nil && (tls == nil || mesh.CodeOf(err) != mesh.CodeUnsupported) {
		return nil, err
	}
	listen := f.Host
	if !loopback(f.Host) && net.ParseIP(f.Host) == nil {
		listen = "0.0.0.0"
	}
	data := map[string]any{
		"Config": &f, "Listen": listen, "TLS": tls, "Operator": f.Keys.OperatorJWT(),
		"System": f.Keys.System(), "Mesh": f.Keys.Mesh(), "Accounts": filepath.Join(f.Dir, "accounts"), "Ask": accountsInterval,
		"MaxPayload": mesh.MaxPayload, "MaxPending": DefaultMaxPendingBytes, "Ping": DefaultPingInterval, "MaxPings": maxPings,
		"WriteDeadline": DefaultWriteDeadline, "SyncInterval": DefaultSyncInterval,
		"User": routeUser, "Password": f.Keys.RoutePassword(),
	}
	var b bytes.Buffer
	err := fileTemplate.Execute(&b, data)
	return b.Bytes(), err
}

var fileTemplate = template.Must(template.New("file").Funcs(template.FuncMap{
	"quote":    strconv.Quote,
	"hostPort": hostPort,
}).Parse(`# NATS server {{.Config.Name}} of a wsmesh mesh. It runs with: wsmesh nats --config FILE
# What is secret in it lets a server join: keep it from others. Names of files are relative to this one.
server_name: {{quote .Config.Name}}
host: {{quote .Listen}}
port: {{.Config.Port}}
client_advertise: {{quote (hostPort .Config.Host .Config.Port)}}
max_payload: {{.MaxPayload}}
max_pending: {{.MaxPending}}
ping_interval: "{{.Ping}}"
ping_max: {{.MaxPings}}
write_deadline: "{{.WriteDeadline}}"
{{with .TLS}}tls { cert_file: {{quote .Cert}}, key_file: {{quote .Key}}, timeout: 5 }
{{end}}
jetstream {
  store_dir: {{quote .Config.Dir}}
  sync_interval: {{if eq .Config.Sync "always"}}always{{else}}"{{.SyncInterval}}"{{end}}
}
{{with .Config.Cluster}}
cluster {
  name: {{quote .Name}}
  host: {{quote $.Listen}}
  port: {{.Port}}
  cluster_advertise: {{quote (hostPort $.Config.Host .Port)}}
  authorization { user: {{quote $.User}}, password: {{quote $.Password}}, timeout: 5 }
  ping_interval: "{{$.Ping}}"
  ping_max: {{$.MaxPings}}
{{- with $.TLS}}
  tls { cert_file: {{quote .Cert}}, key_file: {{quote .Key}}, ca_file: {{quote .CA}}, verify: true, timeout: 5 }
{{- end}}
  routes: [
{{- range .Routes}}
    "nats-route://{{$.User}}:{{$.Password}}@{{.}}"
{{- end}}
  ]
}
{{end}}
operator: {{quote .Operator}}
system_account: {{quote .System.ID}}
resolver { type: full, dir: {{quote .Accounts}}, interval: "{{.Ask}}" }
resolver_preload {
  {{.System.ID}}: {{quote .System.JWT}}
  {{.Mesh.ID}}: {{quote .Mesh.JWT}}
}
`))

// accountsInterval is how often a server asks another one what accounts have changed, as
// where a token was revoked while it was away: until then it would let its holder in.
const accountsInterval = 2 * time.Second

// StartFile starts the server that a configuration file describes. The process's
// working directory has to be that of the file. Errors are those of Start, and
// CodeInvalid where the file cannot be used.
func StartFile(path string, log *slog.Logger) (*Server, error) {
	s, err := startFile(path, log)
	if err != nil {
		return nil, fmt.Errorf("start NATS server by %s: %w", path, err)
	}
	return s, nil
}

func startFile(path string, log *slog.Logger) (*Server, error) {
	o, err := server.ProcessConfigFile(path)
	if err != nil {
		return nil, mesh.Errorf(mesh.CodeInvalid, "%v", err)
	}
	s := &Server{opts: o, log: log}
	if err := s.byFile(path); err != nil {
		if s.srv == nil && o.AccountResolver != nil {
			o.AccountResolver.Close() // the server would
		}
		return nil, err
	}
	return s, nil
}

// byFile starts the server with the options of a file, if they are those of a mesh.
func (s *Server) byFile(path string) (err error) {
	o := s.opts
	if !o.JetStream || o.StoreDir == "" || len(o.TrustedOperators) == 0 || o.ServerName == "" {
		return mesh.Errorf(mesh.CodeInvalid, "it is not the configuration of a server of a mesh, as wsmesh init writes it")
	}
	if o.TLSConfig == nil && !loopback(o.Host) || o.Cluster.Port != 0 && o.Cluster.TLSConfig == nil && !loopback(o.Cluster.Host) {
		return mesh.Errorf(mesh.CodeUnsupported, "it listens beyond its machine without TLS")
	}
	if s.account, err = accountIn(path, o.SystemAccount); err != nil {
		return err
	}
	if o.StoreDir, err = filepath.Abs(o.StoreDir); err != nil {
		return err
	}
	ours(o)
	return s.begin()
}

// accountIn returns the account of the mesh in a configuration file.
func accountIn(path, system string) (string, error) {
	all, err := conf.ParseFile(path)
	if err == nil {
		preload, _ := all["resolver_preload"].(map[string]any)
		for _, id := range slices.Sorted(maps.Keys(preload)) {
			if id != system {
				return id, nil
			}
		}
	}
	return "", mesh.Errorf(mesh.CodeInvalid, "it names no account of a mesh in resolver_preload")
}

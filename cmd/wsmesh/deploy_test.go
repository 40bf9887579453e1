package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

// service is what the test reads of a service in compose.yaml.
type service struct {
	Entrypoint []string       `yaml:"entrypoint"`
	Command    []string       `yaml:"command"`
	Volumes    []string       `yaml:"volumes"`
	Build      map[string]any `yaml:"build"`
	Hostname   string         `yaml:"hostname"`
}

// Every command, flag and path in deploy/compose.yaml exists, init makes the files that
// the services read, and each server is in its certificate's names.
func TestComposeFile(t *testing.T) {
	raw, err := os.ReadFile("../../deploy/compose.yaml")
	require.NoError(t, err)
	var file struct {
		Services map[string]service `yaml:"services"`
		Volumes  map[string]any     `yaml:"volumes"`
	}
	require.NoError(t, yaml.Unmarshal(raw, &file))
	made := filepath.Join(t.TempDir(), "mesh")
	line := file.Services["init"].Command
	require.Len(t, line, 1)
	_, setUp, found := strings.Cut(line[0], "exec wsmesh ")
	require.True(t, found, line)
	root := newRoot()
	root.SetArgs(strings.Fields(strings.Replace(setUp, "--dir /mesh", "--dir "+made, 1)))
	root.SetOut(new(strings.Builder))
	require.NoError(t, root.ExecuteContext(t.Context()))

	running := map[string]int{}
	for name, s := range file.Services {
		require.FileExists(t, filepath.Join("../../deploy", s.Build["context"].(string), s.Build["dockerfile"].(string)), name)
		for _, v := range s.Volumes {
			volume, _, _ := strings.Cut(v, ":")
			require.Contains(t, file.Volumes, volume, name)
		}
		if s.Entrypoint != nil {
			continue
		}
		cmd := parsed(t, s.Command)
		running[cmd.Name()]++
		for _, word := range s.Command {
			if path, isFile := strings.CutPrefix(word, "/mesh/"); isFile {
				require.FileExists(t, filepath.Join(made, path), name)
			}
		}
		if urls, err := cmd.Flags().GetString("nats"); err == nil {
			client, err := os.ReadFile(filepath.Join(made, "client.json"))
			require.NoError(t, err)
			require.Contains(t, string(client), `"`+urls+`"`, name)
		}
	}
	require.Equal(t, map[string]int{"nats": 3, "node": 2, "gateway": 1, "status": 1}, running)
}

// parsed is the command of a command line whose flags all exist and are well formed.
func parsed(t *testing.T, line []string) *cobra.Command {
	t.Helper()
	cmd, rest, err := newRoot().Find(line)
	require.NoError(t, err, line)
	require.True(t, cmd.Runnable(), line)
	require.NoError(t, cmd.ParseFlags(rest), line)
	require.Empty(t, cmd.Flags().Args(), line)
	return cmd
}

// What the Dockerfile copies and runs exists.
func TestDockerfile(t *testing.T) {
	raw, err := os.ReadFile("../../deploy/Dockerfile")
	require.NoError(t, err)
	text := string(raw)
	for _, m := range regexp.MustCompile(`(?m)^COPY ([^-\n].*) \S+$`).FindAllStringSubmatch(text, -1) {
		for name := range strings.FieldsSeq(m[1]) {
			require.FileExists(t, filepath.Join("../..", name, map[bool]string{true: "go.mod"}[name == "."]), m[0])
		}
	}
	makefile, err := os.ReadFile("../../Makefile")
	require.NoError(t, err)
	require.Contains(t, text, "RUN make build\n")
	require.Contains(t, string(makefile), "-o bin/wsmesh ./cmd/wsmesh")
	module, err := os.ReadFile("../../go.mod")
	require.NoError(t, err)
	version := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindStringSubmatch(string(module))[1]
	require.Contains(t, text, "FROM golang:"+version+"-")
	for _, stage := range []string{"build", "slim", "full"} {
		require.Regexp(t, `(?m)^FROM \S+ AS `+stage+`$`, text)
	}
}

package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/wsmesh/wsmesh/mesh"
)

// quotaFlag is one limit: how it is given and shown.
type quotaFlag struct {
	name, usage string
	value       func(*mesh.Limits) *int64
	parse       func(string) (int64, error)
	show        func(int64) string
}

var quotaFlags = []quotaFlag{
	{"memory", "`SIZE` of all processes of one command", func(l *mesh.Limits) *int64 { return &l.MemoryBytes }, parseSize, shownSize},
	{"pids", "`N` processes and threads of one command", func(l *mesh.Limits) *int64 { return &l.Pids }, parseCount, shownCount},
	{"cpu", "`N` processors of one command, such as 1.5", func(l *mesh.Limits) *int64 { return &l.CPUMillis }, parseCPU, shownCPU},
	{"timeout", "how long one command may live, `D` such as 1h", func(l *mesh.Limits) *int64 { return &l.TimeoutMS }, parseTime, shownDuration},
	{"output", "`SIZE` of output after which a command is ended", func(l *mesh.Limits) *int64 { return &l.OutputBytes }, parseSize, shownSize},
	{"files", "`N` files open in one process", func(l *mesh.Limits) *int64 { return &l.Files }, parseCount, shownCount},
	{"file-size", "`SIZE` of a file that a command writes", func(l *mesh.Limits) *int64 { return &l.FileBytes }, parseSize, shownSize},
	{"disk", "`SIZE` of one workspace", func(l *mesh.Limits) *int64 { return &l.DiskBytes }, parseSize, shownSize},
	{"disk-files", "`N` files and directories of one workspace", func(l *mesh.Limits) *int64 { return &l.DiskFiles }, parseCount, shownCount},
}

func newTenantQuota() *cobra.Command {
	var t target
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "quota T [flags]",
		Short: "Show what a tenant may use, or change it",
		Long: "Show what a tenant may use, or change it: the limits that are named, and no others. 0 is the default again.\n" +
			"A change holds for commands that start after it, and for what workspaces hold from then on.",
		Args: between(1, 1),
	}
	given := make([]string, len(quotaFlags))
	var dangerous string
	cmd.Flags().StringVar(&dangerous, "dangerous", "", "what the command guard refuses may run `WHEN`: asked, never or always")
	for i, f := range quotaFlags {
		cmd.Flags().StringVar(&given[i], f.name, "", f.usage)
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		tenant, err := mesh.ParseTenant(args[0])
		if err != nil {
			return err
		}
		ask := mesh.TenantQuotaRequest{Tenant: tenant}
		var reply mesh.TenantQuotaReply
		if err := t.request(cmd.Context(), mesh.VerbAdminTenantQuota, ask, &reply); err != nil {
			return err
		}
		if cmd.Flags().Changed("dangerous") {
			reply.Set.Dangerous = dangerous
			ask.Set = &reply.Set
		}
		for i, f := range quotaFlags {
			if !cmd.Flags().Changed(f.name) {
				continue
			}
			if *f.value(&reply.Set), err = f.parse(given[i]); err != nil {
				return wrongUse(cmd, "--%s %q: %s", f.name, given[i], err)
			}
			ask.Set = &reply.Set
		}
		if ask.Set != nil {
			if err := t.request(cmd.Context(), mesh.VerbAdminTenantQuota, ask, &reply); err != nil {
				return err
			}
		}
		return showQuota(newOutput(cmd, asJSON, "LIMIT", "VALUE", ""), reply)
	}
	t.bindOwn(cmd)
	bindJSON(cmd, &asJSON)
	return cmd
}

func showQuota(out *output, reply mesh.TenantQuotaReply) error {
	if out.json {
		return out.row(reply)
	}
	for _, f := range quotaFlags {
		value, from := *f.value(&reply.Limits), "set"
		if *f.value(&reply.Set) == 0 {
			from = "default"
		}
		shown := "no limit"
		if value != 0 {
			shown = f.show(value)
		}
		if err := out.row(nil, f.name, shown, from); err != nil {
			return err
		}
	}
	from := "set"
	if reply.Set.Dangerous == "" {
		from = "default"
	}
	if err := out.row(nil, "dangerous", reply.Limits.Dangerous, from); err != nil {
		return err
	}
	return out.flush()
}

// parseSize reads a number of bytes, with a unit of 1024 or its powers if there is
// one: K, KiB, M, MiB, G, GiB, T or TiB.
func parseSize(s string) (int64, error) {
	number, shift := s, 0
	for i, unit := range []string{"K", "M", "G", "T"} {
		for _, suffix := range []string{unit + "iB", unit} {
			if rest, ok := strings.CutSuffix(number, suffix); ok && shift == 0 {
				number, shift = rest, 10*(i+1)
			}
		}
	}
	n, err := strconv.ParseFloat(number, 64)
	if err != nil || n < 0 || n*float64(int64(1)<<shift) >= math.MaxInt64 {
		return 0, fmt.Errorf("want bytes, or a number with K, M, G or T, such as 512M")
	}
	return int64(n * float64(int64(1)<<shift)), nil
}

func parseCount(s string) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 32)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("want a number")
	}
	return n, nil
}

func parseCPU(s string) (int64, error) {
	n, err := strconv.ParseFloat(s, 64)
	if err != nil || n < 0 || n > 1e6 {
		return 0, fmt.Errorf("want a number of processors, such as 1.5")
	}
	return int64(math.Round(n * 1000)), nil
}

func parseTime(s string) (int64, error) {
	if s == "0" {
		return 0, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return 0, fmt.Errorf("want a time, such as 90s or 1h")
	}
	return d.Milliseconds(), nil
}

func shownSize(n int64) string {
	for i, unit := range []string{"TiB", "GiB", "MiB", "KiB"} {
		if size := int64(1) << (10 * (4 - i)); n%size == 0 {
			return fmt.Sprintf("%d %s", n/size, unit)
		}
	}
	return fmt.Sprintf("%d B", n)
}

func shownCount(n int64) string { return strconv.FormatInt(n, 10) }

func shownCPU(n int64) string { return strconv.FormatFloat(float64(n)/1000, 'f', -1, 64) }

func shownDuration(n int64) string { return (time.Duration(n) * time.Millisecond).String() }

package mesh

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Settings are what a tenant says of a workspace of its own. The zero value is as the
// mesh is set.
type Settings struct {
	// Net is the most network that commands may have: none, full, or allow: and hosts.
	// "" is what the operator grants.
	Net string `json:"net,omitempty"`
	Need
	// Durability is that of commands which name none, see ExecRequest: sync, async or
	// none; "" is sync.
	Durability string `json:"durability,omitempty"`
	// Ephemeral are directories at any depth, "build" or "web/node_modules", in which
	// what commands change is not captured, besides those of which that is so everywhere;
	// at most MaxEphemeral.
	Ephemeral []Path `json:"ephemeral,omitempty"`
	// Idle is what becomes of the workspace when nobody uses it: close, the default;
	// delete: it is removed instead; keep=DURATION: it is removed when it has been closed
	// for so long. Days are "7d", the rest is as time.ParseDuration has it.
	Idle string `json:"idle,omitempty"`
}

// MaxEphemeral bounds Settings.Ephemeral.
const MaxEphemeral = 64

// Check returns CodeInvalid for settings that say nothing that could be. Net is the
// node's to check.
func (s *Settings) Check() error {
	if err := s.Need.check(); err != nil {
		return err
	}
	if err := CheckDurability(s.Durability); err != nil {
		return err
	}
	if len(s.Ephemeral) > MaxEphemeral {
		return Errorf(CodeInvalid, "%d ephemeral directories are more than %d", len(s.Ephemeral), MaxEphemeral)
	}
	for _, e := range s.Ephemeral {
		dir := string(e)
		if dir == "" || dir != path.Clean(dir) || path.IsAbs(dir) || dir == "." || dir == ".." || strings.HasPrefix(dir, "../") || strings.IndexByte(dir, 0) >= 0 || len(dir) > 255 {
			return Errorf(CodeInvalid, "ephemeral %.80q is not the relative path of a directory, like node_modules or web/build", dir)
		}
	}
	_, _, err := ParseIdle(s.Idle)
	return err
}

// CheckDurability checks what the end of a command waits for; CodeInvalid.
func CheckDurability(d string) error {
	switch d {
	case "", DurabilitySync, DurabilityAsync, DurabilityNone:
		return nil
	}
	return Errorf(CodeInvalid, "durability %.20q is none of sync, async and none", d)
}

// Durabilities of a command: what its end waits for.
const (
	DurabilitySync  = "sync"  // until what it changed is in the journal: the default
	DurabilityAsync = "async" // for nothing; a capture begins then
	DurabilityNone  = "none"  // for nothing; a later capture takes what it changed
)

// ParseIdle reads Settings.Idle. remove: it is removed when it is not used, and after it
// has been closed for keep where that is not 0.
func ParseIdle(s string) (remove bool, keep time.Duration, err error) {
	switch s {
	case "", "close":
		return false, 0, nil
	case "delete":
		return true, 0, nil
	}
	text, ok := strings.CutPrefix(s, "keep=")
	if days, isDays := strings.CutSuffix(text, "d"); ok && isDays {
		n, err := strconv.ParseUint(days, 10, 16)
		keep, ok = time.Duration(n)*24*time.Hour, err == nil
	} else if ok {
		keep, err = time.ParseDuration(text)
		ok = err == nil
	}
	if !ok || keep <= 0 {
		return false, 0, Errorf(CodeInvalid, "idle %.40q is not close, delete or keep=DURATION, like keep=7d", s)
	}
	return true, keep, nil
}

// SettingsChange is what to change of the settings of a workspace: what is not nil.
type SettingsChange struct {
	Net        *string           `json:"net,omitempty"`
	Zone       *string           `json:"zone,omitempty"`
	Labels     map[string]string `json:"labels,omitzero"` // all of them; an empty one: none
	Isolation  *string           `json:"isolation,omitempty"`
	Durability *string           `json:"durability,omitempty"`
	Ephemeral  []Path            `json:"ephemeral,omitzero"` // all of them; an empty one: none
	Idle       *string           `json:"idle,omitempty"`
}

// Apply makes the change.
func (c *SettingsChange) Apply(s *Settings) {
	change(&s.Net, c.Net)
	change(&s.Zone, c.Zone)
	if c.Labels != nil {
		s.Labels = c.Labels
	}
	if c.Ephemeral != nil {
		s.Ephemeral = c.Ephemeral
	}
	change(&s.Isolation, c.Isolation)
	change(&s.Durability, c.Durability)
	change(&s.Idle, c.Idle)
}

func change[T any](value, to *T) {
	if to != nil {
		*value = *to
	}
}

// Need is what a node must have to host a workspace; the zero value is nothing. To
// need something gives no right: what a node has is its operator's word.
type Need struct {
	Zone   string            `json:"zone,omitempty"`
	Labels map[string]string `json:"labels,omitempty"` // at most MaxLabels, each with this value
	// Isolation is how commands must be isolated at least: software or bwrap.
	Isolation string `json:"isolation,omitempty"`
}

// MaxLabels bounds the labels of a node, and those that a workspace needs.
const MaxLabels = 16

// isolations are drivers of the sandbox by strength; of one that runs no commands the
// driver is "".
var isolations = []string{"none", "software", "bwrap"}

func (n *Need) check() error {
	if n.Isolation != "" && !slices.Contains(isolations[1:], n.Isolation) {
		return Errorf(CodeInvalid, "isolation %.20q to be needed is neither software nor bwrap", n.Isolation)
	}
	return CheckPlace(n.Zone, n.Labels)
}

// CheckPlace checks a zone, "" for none, and labels: names and values are formed like
// those of workspaces; CodeInvalid.
func CheckPlace(zone string, labels map[string]string) error {
	if zone != "" {
		if err := CheckName("zone", zone); err != nil {
			return err
		}
	}
	if len(labels) > MaxLabels {
		return Errorf(CodeInvalid, "%d labels are more than %d", len(labels), MaxLabels)
	}
	for _, name := range slices.Sorted(maps.Keys(labels)) {
		for kind, s := range map[string]string{"label": name, "label value": labels[name]} {
			if err := CheckName(kind, s); err != nil {
				return err
			}
		}
	}
	return nil
}

// ParseLabel reads NAME=VALUE; CodeInvalid.
func ParseLabel(s string) (name, value string, err error) {
	name, value, ok := strings.Cut(s, "=")
	if !ok {
		return "", "", Errorf(CodeInvalid, "label %.80q is not NAME=VALUE", s)
	}
	return name, value, CheckPlace("", map[string]string{name: value})
}

// Missing says what a node with this zone, these labels and this driver of its sandbox
// has not; "" says that it has all that is needed.
func (n *Need) Missing(zone string, labels map[string]string, isolation string) string {
	var all []string
	if n.Zone != "" && n.Zone != zone {
		all = append(all, "zone "+n.Zone)
	}
	for _, name := range slices.Sorted(maps.Keys(n.Labels)) {
		if has, ok := labels[name]; !ok || has != n.Labels[name] {
			all = append(all, fmt.Sprintf("label %s=%s", name, n.Labels[name]))
		}
	}
	if n.Isolation != "" && slices.Index(isolations, isolation) < slices.Index(isolations, n.Isolation) {
		all = append(all, "isolation "+n.Isolation)
	}
	return strings.Join(all, ", ")
}

// NodeRoom is what a node has left.
type NodeRoom struct {
	DiskBytes   int64 `json:"disk_bytes"`   // of its data directory's file system
	MemoryBytes int64 `json:"memory_bytes"` // of the machine, or of the container that it runs in
	Commands    int64 `json:"commands"`     // that may run besides those that do
	Workspaces  int64 `json:"workspaces"`   // that may be open besides those that are
}

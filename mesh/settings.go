package mesh

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Settings are what a tenant says of a workspace of its own. The zero value is as the
// mesh is set.
type Settings struct {
	// Net is the most network that commands may have: none, full, or allow: and hosts.
	// "" is what the operator grants.
	Net string `json:"net,omitempty"`
	Need
}

// Check returns CodeInvalid for settings that say nothing that could be. Net is the
// node's to check.
func (s *Settings) Check() error { return s.Need.check() }

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

package mesh

// Limits bound what a tenant may use. 0 is the node's default, which for
// CPUMillis, TimeoutMS and OutputBytes is no limit.
type Limits struct {
	// Of one command.
	MemoryBytes int64 `json:"memory_bytes,omitempty"` // of all of its processes
	Pids        int64 `json:"pids,omitempty"`         // processes and threads
	CPUMillis   int64 `json:"cpu_millis,omitempty"`   // processors, in thousandths of one
	TimeoutMS   int64 `json:"timeout_ms,omitempty"`   // how long it may live
	OutputBytes int64 `json:"output_bytes,omitempty"` // after which it is killed
	Files       int64 `json:"files,omitempty"`        // open in one process
	FileBytes   int64 `json:"file_bytes,omitempty"`   // of a file that it writes

	// Of one workspace.
	DiskBytes int64 `json:"disk_bytes,omitempty"`
	DiskFiles int64 `json:"disk_files,omitempty"` // files, directories and all else that has a name

	// Dangerous says when what the command guard refuses may run: one of the
	// Dangerous… values, "" is DangerousAsked.
	Dangerous string `json:"dangerous,omitempty"`
}

// Values of Limits.Dangerous.
const (
	DangerousAsked  = "asked"  // when the request allows it by name
	DangerousNever  = "never"  // not even then
	DangerousAlways = "always" // without being asked
)

// Check returns CodeInvalid for limits that nothing could live within.
func (l *Limits) Check() error {
	switch l.Dangerous {
	case "", DangerousAsked, DangerousNever, DangerousAlways:
	default:
		return Errorf(CodeInvalid, "dangerous %.20q is not asked, never or always", l.Dangerous)
	}
	for _, c := range []struct {
		name         string
		value, least int64
	}{
		{"memory", l.MemoryBytes, 4 << 20},
		{"pids", l.Pids, 1},
		{"cpu", l.CPUMillis, 10},
		{"timeout", l.TimeoutMS, 1},
		{"output", l.OutputBytes, 1},
		{"files", l.Files, 16},
		{"file-size", l.FileBytes, 512},
		{"disk", l.DiskBytes, 4 << 10},
		{"disk-files", l.DiskFiles, 1},
	} {
		if c.value != 0 && c.value < c.least {
			return Errorf(CodeInvalid, "limit %s: %d is less than %d; 0 is the default", c.name, c.value, c.least)
		}
	}
	return nil
}

// TenantQuotaRequest reads the limits of a tenant, or sets them where Set is not
// nil. The reply is a TenantQuotaReply.
type TenantQuotaRequest struct {
	Tenant Tenant  `json:"tenant"`
	Set    *Limits `json:"set,omitempty"`
}

// TenantQuotaReply is what a tenant's limits are: as they were set, and in effect
// with the defaults of the node that answers.
type TenantQuotaReply struct {
	Tenant Tenant `json:"tenant"`
	Set    Limits `json:"set"`
	Limits Limits `json:"limits"`
}

// LimitMet is a limit that an exec met: its name and a sentence for people.
type LimitMet struct {
	Name string `json:"name"` // memory pids disk output timeout
	Text string `json:"text"`
}

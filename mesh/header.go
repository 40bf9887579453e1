package mesh

// Headers of requests, replies and stored messages. Mesh-Args carries the JSON
// arguments of a message whose body is raw content.
const (
	HeaderID         = "Mesh-Id"         // idempotency key of a request (UUID), the same in all its repeats
	HeaderDeadline   = "Mesh-Deadline"   // milliseconds the caller will still wait
	HeaderScope      = "Mesh-Scope"      // scope of the request, percent-encoded; absent is the whole workspace
	HeaderArgs       = "Mesh-Args"       // JSON arguments when the body is raw content
	HeaderConsistent = "Mesh-Consistent" // "1": the answer is of a moment at which the owner was one, after it was asked
	HeaderNode       = "Mesh-Node"       // which node answered
	HeaderErrorCode  = "Nats-Service-Error-Code"
	HeaderError      = "Nats-Service-Error"
	HeaderRevision   = "Mesh-Revision" // with an error that is a conflict of revisions: the one that is there

	// Journal records (PROTOCOL rule numbers are in doc.go).
	HeaderEpoch  = "Mesh-Epoch"  // epoch of the owner that wrote the record
	HeaderNumber = "Mesh-Number" // number of the record in the chain, from 1
	HeaderPrev   = "Mesh-Prev"   // stream sequence of the previous record, 0 for the first
	HeaderRoot   = "Mesh-Root"   // root hash of the chain up to the previous record, hex
	HeaderRecord = "Mesh-Record" // id of the record (UUID), fresh per attempt of the owner
	HeaderIDs    = "Mesh-Ids"    // idempotency keys the record answers, comma-separated
	HeaderKind   = "Mesh-Kind"   // kinds of its ops, comma-separated
	HeaderPaths  = "Mesh-Paths"  // what changed, comma-separated: kind:path or rename:path:to, percent-encoded
	HeaderMore   = "Mesh-More"   // "1": more changed than Mesh-Paths says

	// The last part of a pack.
	HeaderParts     = "Mesh-Parts"      // number of the pack's parts
	HeaderPartBytes = "Mesh-Part-Bytes" // bytes of each part but the last
)

// MaxMessage is the most bytes of content one message carries: 512 KiB. Larger
// content moves in ranged reads and staged writes.
const MaxMessage = 512 << 10

// MaxPayload is what the NATS server lets through: MaxMessage and room for
// headers. A client that ignores MaxMessage gets too_large from the node; one
// that ignores MaxPayload is refused by its own library and by the server.
const MaxPayload = MaxMessage + 128<<10

// headerRoom is what headers other than Mesh-Args take at most: a scope of 4 KiB,
// percent-encoded, is most of it.
const headerRoom = 16 << 10

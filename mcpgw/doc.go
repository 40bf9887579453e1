// Package mcpgw serves the workspaces of a mesh as MCP tools, over HTTP and over
// standard input and output.
//
// # Model
//
// The gateway has no logic and no rights of its own. A tool call becomes calls of
// package client, on a connection that was opened with the caller's own token: the
// broker decides what the caller may reach, and the node and the sandbox check it
// again. A defect here can therefore mix up nothing but what one token may do
// anyway.
//
// Nothing is kept between two requests except connections: a client may send each
// request to another gateway, and needs no handshake before the first.
//
// # Tools
//
// exec; process_start, process_read, process_wait, process_write, process_kill,
// process_list; read_text_file, write_file, edit_file; list_directory, search_files, grep,
// get_file_info; create_directory, move_file, delete_path; snapshot_create, snapshot_list,
// snapshot_diff, snapshot_restore, workspace_fork; memory_get, memory_put,
// memory_list, memory_delete. Every result has the same facts twice, as text for a
// model and as structuredContent after the tool's output schema, because clients
// show a model one of the two and differ in which. A result that is cut says what
// was shown, of how much, and which call gets the rest.
//
// A failure is a result with isError whose text begins with one of the codes of
// package mesh and ends with what to do next; structuredContent has code, message
// and retryable. A command that ran and ended with a status other than 0 is no
// failure.
//
// # Resources
//
// A file is also a resource: wsmesh:///PATH, percent-encoded, of at most MaxResource
// bytes, as text or, where it is none, as a blob. Over standard input and output a client
// can subscribe to files and directories, in every revision of the protocol, and hears of
// each at most once in DefaultNoticeEvery that it was changed: by requests of anybody, and
// by commands when that is captured. What it may have missed it is told of too. Over HTTP
// there are no sessions to tell; a program there watches with package client.
//
// # HTTP
//
// POST /mcp is the streamable HTTP transport without sessions, in every revision of
// the protocol that mcp-go speaks; GET and DELETE are 405. GET /health needs no
// token. A request passes, in this order: the size of its body and the time it
// takes to send it (413), Origin and Host (403), the token (401), the type of
// its content (415), the tenant's share of requests under way (429), the scope (400,
// 403).
//
//	Authorization: Bearer TOKEN   whose workspaces; nothing else names a tenant
//	X-Workspace: NAME             which of them; default main, or the token's own
//	X-Scope-Path: PATH            see only what is below PATH, of memory too; never wider than the token
//	X-Root-Dir: /workspace        accepted and ignored; any other root is 403
//
// Notifications of a client are accepted and dropped: mcp-go cancels by request id
// alone, and ids of two tenants are often the same. Closing the connection is what
// cancels a call.
package mcpgw

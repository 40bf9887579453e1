// Package inside is the program that runs as process 1 of a warm sandbox, and
// the messages between it and the node.
//
// # Model
//
// The node starts [Main] once per sandbox, with one end of a SOCK_SEQPACKET pair
// as its standard input. Each request to run carries the descriptors of one
// command, which is forked here and so inherits every wall of the sandbox. All
// that can be done before is done at once; the fork waits for a byte through the
// gate, one of the descriptors, and never happens if the gate is closed without
// one. The command's status and its use of the processor come back. Nothing else
// does: output goes from the command straight into the node's pipes.
//
// # Trust
//
// Commands run beside this program under the same user id. Therefore, before it
// reads its first request, it takes three things from them, in this order:
//
//  1. It stops being dumpable: else a command could read and write its memory
//     through /proc/1/mem, and so forge whatever the node is told.
//  2. It gives every signal its default effect. The kernel keeps signals without
//     a handler from process 1; the handlers of the Go runtime would end it.
//  3. It marks every descriptor close-on-exec: one that was inherited would
//     otherwise reach the commands.
//
// The node nevertheless takes every byte from here for the tenant's.
//
// Each command is forked by a thread of its own. It has entered a Landlock domain
// of its own, where the kernel has that, before it reads the request, and then
// enters the cgroups the node passed it. The domain is a second layer below the
// mounts of the sandbox; and it is what keeps commands of one sandbox from
// signalling each other and from reading each other's memory and descriptors.
//
// # The way out
//
// Where commands find a way out at [EgressAddr], its listener is made here, because a socket
// belongs to the network it was made in, and before any command; the node has its
// descriptor and accepts. A command with a sandbox of its own comes after
// another start of this program, which does that alone and becomes the command.
//
// This package is linked into a small program (sandbox/agent) and must stay
// small: no net, no encoding/json, no fmt.
package inside

package inside

import (
	"math"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// fdListen takes the listener out.
const fdListen = 3

// backlog bounds the connections that wait to be accepted.
const backlog = 256

// listen makes the listener. It belongs to the network of this sandbox, whoever
// holds it.
func listen() (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	err = unix.Bind(fd, &unix.SockaddrInet4{Port: egressPort, Addr: [4]byte{127, 0, 0, 1}})
	if err == nil {
		err = unix.Listen(fd, backlog)
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// listenAndBecome hands a listener out, and becomes another program, which gets no
// descriptor of it.
func listenAndBecome(argv []string) {
	fd, err := listen()
	if err != nil {
		die("listen", err)
	}
	if err := unix.Sendmsg(fdListen, []byte{0}, unix.UnixRights(fd), nil, 0); err != nil {
		die("hand the listener out", err)
	}
	// The gate needs 3 and 4; ours are above them, this program's own among them.
	if err := unix.CloseRange(5, math.MaxInt32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		die("close descriptors", err)
	}
	die("run "+argv[0], syscall.Exec(argv[0], argv, os.Environ()))
}

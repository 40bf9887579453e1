package natsd

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
)

// serverLog passes the server's lines to slog and keeps the first fatal one:
// an embedded server does not end the process on it, but only stops starting.
type serverLog struct {
	log *slog.Logger

	mu    sync.Mutex
	fatal error
}

func (l *serverLog) write(level slog.Level, format string, args []any) {
	if l.log.Enabled(context.Background(), level) {
		l.log.Log(context.Background(), level, "nats server", "line", fmt.Sprintf(format, args...))
	}
}

func (l *serverLog) Tracef(format string, args ...any)  { l.write(slog.LevelDebug, format, args) }
func (l *serverLog) Debugf(format string, args ...any)  { l.write(slog.LevelDebug, format, args) }
func (l *serverLog) Noticef(format string, args ...any) { l.write(slog.LevelDebug, format, args) }
func (l *serverLog) Warnf(format string, args ...any)   { l.write(slog.LevelWarn, format, args) }
func (l *serverLog) Errorf(format string, args ...any)  { l.write(slog.LevelError, format, args) }

// Fatalf keeps the line as an error that wraps the error among its arguments,
// so that the cause is decided on by value and not by text.
func (l *serverLog) Fatalf(format string, args ...any) {
	l.write(slog.LevelError, format, args)
	failure := &startError{text: fmt.Sprintf(format, args...)}
	for _, a := range args {
		if err, ok := a.(error); ok {
			failure.cause = err
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fatal == nil {
		l.fatal = failure
	}
}

// err returns what kept the server from starting, or nil.
func (l *serverLog) err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.fatal
}

type startError struct {
	text  string
	cause error
}

func (e *startError) Error() string { return e.text }
func (e *startError) Unwrap() error { return e.cause }

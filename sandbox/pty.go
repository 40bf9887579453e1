package sandbox

// Winsize is the size of a terminal in characters; 0 is unknown.
type Winsize struct{ Rows, Cols uint16 }

// DefaultTerminals is how many terminals there may be in one sandbox, those included
// that commands make: the kernel has some 3,000 for all of them together.
const DefaultTerminals = 64

// Package wsmesh is the root of the module and holds no code: the tests beside
// it keep the shape of the whole, which package imports which and where the
// wire's subjects are written down.
//
// A program imports [github.com/wsmesh/wsmesh/client]; one that carries its
// mesh inside itself imports [github.com/wsmesh/wsmesh/node/onebox] as well.
package wsmesh

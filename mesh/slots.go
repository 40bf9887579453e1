package mesh

import "sync"

// Slots bounds what is done at a time, at all and for one owner: an owner may
// hold a quarter, so that one tenant cannot shut the others out. Safe for
// concurrent use.
type Slots struct {
	mu    sync.Mutex
	size  int
	all   int
	held  map[string]int
	share int
}

// NewSlots makes size slots.
func NewSlots(size int) *Slots {
	return &Slots{size: size, share: max(1, size/4), held: map[string]int{}}
}

// Take takes a slot for owner, or reports that there is none.
func (s *Slots) Take(owner string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all >= s.size || s.held[owner] >= s.share {
		return false
	}
	s.all++
	s.held[owner]++
	return true
}

// Free is how many are left for all owners together.
func (s *Slots) Free() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.size - s.all
}

// Give gives a slot of owner back.
func (s *Slots) Give(owner string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all--
	if s.held[owner]--; s.held[owner] == 0 {
		delete(s.held, owner)
	}
}

package fabric

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/cloister-dev/cloister/internal/lib/atomicfile"
)

// state is what the fabric writes down before it acts, and all it needs to come back after a reboot.
type state struct {
	Config Config
	// Slots give each network a number, from which its link address in the hub and its public address follow.
	// A number is not given again until all others were: flows still remembered for an old network must not be a new one's.
	Slots map[string]uint16
	Next  uint16
}

const (
	firstSlot = 1
	lastSlot  = 1<<15 - 1 // their public addresses are the half of 198.19.0.0/16 that documents give out none of
	// publicSlot is no network's: the services see what came by a front as it.
	publicSlot = 0
)

// allot keeps the slots of networks that stay, frees those of networks that are gone and gives new ones.
func (s *state) allot(networks []Network) error {
	old, taken := s.Slots, map[uint16]bool{}
	s.Slots = make(map[string]uint16, len(networks))
	for _, n := range networks {
		if slot, ok := old[n.ID]; ok && slot <= lastSlot {
			s.Slots[n.ID], taken[slot] = slot, true
		}
	}
	for _, n := range networks {
		if _, ok := s.Slots[n.ID]; ok {
			continue
		}
		if len(taken) > lastSlot-firstSlot {
			return fmt.Errorf("network %s: all %d link addresses are in use", n.ID, lastSlot)
		}
		for s.Next < firstSlot || s.Next > lastSlot || taken[s.Next] {
			if s.Next++; s.Next > lastSlot {
				s.Next = firstSlot
			}
		}
		s.Slots[n.ID], taken[s.Next] = s.Next, true
		s.Next++
	}
	return nil
}

// linkAddress is what the hub and the services behind it see a network's guests as.
func linkAddress(slot uint16) netip.Addr {
	return netip.AddrFrom4([4]byte{255, 0, byte(slot >> 8), byte(slot)})
}

// publicAddress is what `public` sees a network's guests as.
func publicAddress(slot uint16) netip.Addr {
	return netip.AddrFrom4([4]byte{198, 19, byte(slot >> 8), byte(slot)})
}

func readState(path string) (s state, found bool, err error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return state{}, false, nil
	}
	if err != nil {
		return state{}, false, err
	}
	if err := json.Unmarshal(data, &s); err != nil {
		return state{}, false, fmt.Errorf("decode the fabric's state %s: %w", path, err)
	}
	return s, true, nil
}

// write replaces the file, unless it says the same already: a sync to disk costs more than all the rest of a Set
// that changes nothing.
func (s state) write(path string) error {
	data, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("encode the fabric's state: %w", err)
	}
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, data) {
		return nil
	}
	return atomicfile.Write(path, data, 0o600)
}

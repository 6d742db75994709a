// Package above depends on the package above it by way of none other.
package above

import "github.com/cacheaside/aside/proof/knot/testdata/rooms"

// Size is that of a room.
func Size() int { return rooms.User(rooms.A{}) }

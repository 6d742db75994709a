package rooms

import "strings"

// Alone needs no other file.
var Alone = strings.ToUpper("alone")

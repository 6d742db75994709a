package redisstore

import (
	"strconv"
	"strings"
	"sync"
)

// slots is the number of hash slots of a Redis Cluster.
const slots = 16384

// LeaseKey returns the lease key of key: it holds key's lease, claim, not-found marker or
// freshness mark. It hashes to key's own Cluster slot, so that a script may name both, and no
// value key can be equal to it: a value key has the name of a keyspace before its first
// colon, which cannot be "lease" or empty, and cannot contain a brace.
//
//	chat_messages:A      {chat_messages:A}:lease
//	chat_messages:{A}    lease:chat_messages:{A}
//	chat_messages:a}     lease::{tag}:chat_messages:a}
//
// See https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#hash-tags
func LeaseKey(key string) string {
	switch {
	case HashTag(key) != key:
		return "lease:" + key
	case !strings.Contains(key, "}"):
		return "{" + key + "}:lease"
	default:
		return "lease::{" + TagForSlot(SlotOf(key)) + "}:" + key
	}
}

// BlockKey returns the key of the hash that holds the blocks of key's writers. Like LeaseKey
// it hashes to key's slot and is no value key, and it is no lease key either.
//
//	chat_messages:A      {chat_messages:A}:block
//	chat_messages:{A}    lease::block:chat_messages:{A}
//	chat_messages:a}     lease::block::{tag}:chat_messages:a}
func BlockKey(key string) string {
	switch {
	case HashTag(key) != key:
		return blockPrefix + key
	case !strings.Contains(key, "}"):
		return "{" + key + "}:block"
	default:
		return blockPrefix + ":{" + TagForSlot(SlotOf(key)) + "}:" + key
	}
}

const blockPrefix = "lease::block:"

// LeasedKey is the inverse of LeaseKey. ok is false when lease is not a lease key.
func LeasedKey(lease string) (key string, ok bool) {
	if strings.HasPrefix(lease, blockPrefix) {
		return "", false
	}
	if rest, found := strings.CutPrefix(lease, "lease::{"); found {
		_, key, ok = strings.Cut(rest, "}:")
	} else if rest, found := strings.CutPrefix(lease, "lease:"); found {
		key, ok = rest, true
	} else if rest, found := strings.CutSuffix(lease, "}:lease"); found {
		key, ok = strings.CutPrefix(rest, "{")
	}
	return key, ok && LeaseKey(key) == lease
}

// HashTag returns the part of key that Redis hashes: the text between the first '{' and the
// next '}' if there is any, else all of key.
func HashTag(key string) string {
	_, rest, ok := strings.Cut(key, "{")
	if !ok {
		return key
	}
	tag, _, ok := strings.Cut(rest, "}")
	if !ok || tag == "" {
		return key
	}
	return tag
}

// SlotOf returns the Cluster slot of key.
func SlotOf(key string) int { return int(crc16(HashTag(key))) % slots }

// crc16 is CRC-16/XMODEM, the hash function of Redis Cluster.
func crc16(s string) (crc uint16) {
	for i := range len(s) {
		crc ^= uint16(s[i]) << 8
		for range 8 {
			carry := crc&0x8000 != 0
			crc <<= 1
			if carry {
				crc ^= 0x1021
			}
		}
	}
	return crc
}

// TagForSlot returns a short text that hashes to slot.
func TagForSlot(slot int) string { return slotTags()[slot] }

// slotTags finds a tag for each slot by trying numbers. That takes a few milliseconds, once,
// in a process that has a key with a '}' outside of a hash tag, or a Cluster to probe.
var slotTags = sync.OnceValue(func() *[slots]string {
	var tags [slots]string
	for n, missing := 0, slots; missing > 0; n++ {
		tag := strconv.FormatInt(int64(n), 36)
		if s := SlotOf(tag); tags[s] == "" {
			tags[s] = tag
			missing--
		}
	}
	return &tags
})

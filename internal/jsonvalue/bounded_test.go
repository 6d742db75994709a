package jsonvalue_test

import (
	"encoding/json"
	"testing"

	"github.com/cacheaside/aside/internal/jsonvalue"
)

type (
	// child has a cycle that its method leaves out.
	child struct {
		Name   string
		Meta   any
		Parent *child
		Nested []*child
	}
	// family has methods of both directions, which leave the cycle out and bring it back.
	// It embeds a type with methods, so that its parts are compared.
	family struct {
		json.Number
		Parent *family
		Nested []*family
		Meta   any
	}
	// dag is written by its method in a few bytes, however many ways lead through it.
	dag struct {
		L, R *dag
		Meta any
	}
	// shadowed has a cycle in a field that another takes the place of.
	shadowed struct {
		Shadow
		Parent string
	}
	Shadow struct {
		Parent *shadowed
		Meta   any
	}
	// hidden has a cycle in a field that is omitted as zero.
	hidden struct {
		Self nowhere `json:",omitzero"`
		Meta any
	}
	nowhere struct {
		To   *hidden
		Meta any
	}
)

func (c *child) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Name   string
		Meta   any
		Nested []*child
	}{c.Name, c.Meta, c.Nested})
}

func (f *family) MarshalJSON() ([]byte, error) {
	return json.Marshal(map[string]any{"nested": f.Nested})
}

func (f *family) UnmarshalJSON(data []byte) error {
	var v struct{ Nested []*family }
	err := json.Unmarshal(data, &v)
	f.Nested = v.Nested
	for _, n := range f.Nested {
		n.Parent, n.Meta = f, f
	}
	return err
}

func (d *dag) MarshalJSON() ([]byte, error) { return []byte(`{}`), nil }
func (nowhere) IsZero() bool                { return true }

// Parts that encoding/json does not write cannot make the search endless, or as long as the
// number of paths through them.
func TestEncode_IsBounded(t *testing.T) {
	t.Parallel()
	loop := &child{Name: "root", Meta: 1.0}
	loop.Nested = []*child{{Name: "a", Parent: loop}}
	shared := &dag{}
	for range 64 {
		shared = &dag{L: shared, R: shared}
	}
	tree := &family{}
	tree.Nested = []*family{{Parent: tree, Meta: tree}}
	covered := &shadowed{Parent: "p"}
	covered.Shadow.Parent = covered
	zero := &hidden{}
	zero.Self.To = zero
	for name, value := range map[string]any{
		"cycle": loop, "cycle in any": map[string]any{"a": loop}, "shared": shared, "shared in any": []any{shared},
		"cycle that comes back": tree, "cycle that comes back in any": []any{tree}, "shadowed": covered, "omitted": zero,
	} {
		if _, err := json.Marshal(value); err != nil {
			t.Fatalf("%s: encoding/json refuses it: %v", name, err)
		}
		_, _ = jsonvalue.Encode(value) // it returns
	}
	if _, err := jsonvalue.Encode(tree); err != nil {
		t.Errorf("a cycle that comes back is refused: %v", err)
	}
	if _, err := jsonvalue.Encode(loop); err == nil {
		t.Error("a cycle that its JSON leaves out is not refused")
	}
}

// Package aside is a cache-aside library: it looks in the cache, loads from the
// database on a miss, stores what was loaded, and invalidates on a write.
//
// [Open] makes a [Cache] in Redis, in memory, or none. [GetOrLoad] wraps a
// repository's loaders and [Update] its writes:
//
//	func (r *Repository) Messages(ctx context.Context, chatID string) ([]Message, error) {
//		return aside.GetOrLoad(ctx, r.cache, aside.ChatMessages(chatID), func(ctx context.Context) ([]Message, error) {
//			return r.selectMessages(ctx, chatID)
//		})
//	}
//
//	func (r *Repository) AddMessage(ctx context.Context, m Message) error {
//		return aside.Update(ctx, r.cache, func(ctx context.Context) error {
//			return r.insertMessage(ctx, m)
//		}, aside.ChatMessages(m.ChatID))
//	}
//
// A load that began before a write is never stored after it, and never handed to
// a reader who came after it. A cold key is loaded once, however many ask, in
// however many processes. A backend that does not answer costs a call at most
// Config.Timeout, then nothing: reads go to the database, and invalidations are
// kept until they can be delivered.
//
// What is stored is the encoded value and nothing else, so that programs in other
// languages share it: they fill with SETEX, and invalidate `name:id` with
// DEL name:id {name:id}:lease.
//
// [Generations] keeps the state of AI replies that are being generated: started
// once, cancelled from any process.
package aside

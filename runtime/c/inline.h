/* Functions that each file takes what it needs of; nobody is warned of the rest. */
#ifndef CDR_INLINE_H
#define CDR_INLINE_H

#if defined(__GNUC__)
#define CDR_INLINE static inline __attribute__((unused))
#else
#define CDR_INLINE static inline
#endif

#endif

/* What some systems lack.  Windows and WebAssembly have no mapped files, no locks that end with their process and no links
   worth following; Windows alone has files of text. */
#ifndef CDR_SYSTEM_H
#define CDR_SYSTEM_H

#if defined(_WIN32) || defined(__wasi__)
#define CDR_NO_POSIX 1
#if !defined(CDR_NO_MMAP)
#define CDR_NO_MMAP 1
#endif
#endif

#endif

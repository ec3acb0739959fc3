<?php
/**
 * A picture file below the folder of uploads.
 *
 * @package Avatarmod
 */

namespace Avatarmod;

defined( 'ABSPATH' ) || exit;

/** One file, and the smaller copies that were made of it. */
final class Picture {

	/** Path below the folder of uploads, with slashes. */
	public string $name;

	/** Where it is. */
	public string $path;

	/** Where browsers find it. */
	public string $url;

	/**
	 * Names of copies that the plugin which has the picture knows of.
	 *
	 * @var string[]
	 */
	public array $copies = array();

	/** A file of a name below the folder of uploads; null where none is there. */
	public static function named( string $name ): ?self {
		$uploads = wp_get_upload_dir();
		$path    = path_join( $uploads['basedir'], $name );
		if ( '' === $name || 0 !== validate_file( $name ) || ! is_file( $path ) ) {
			return null;
		}
		$picture       = new self();
		$picture->name = $name;
		$picture->path = $path;
		$picture->url  = trailingslashit( $uploads['baseurl'] ) . $name;
		return $picture;
	}

	/**
	 * The picture behind an address of this site; null where it is none of ours.
	 *
	 * A file called `cat-96x96.png` is a copy of `cat.png` only where WordPress made it: anybody may
	 * call an upload so.
	 */
	public static function at( string $url ): ?self {
		$name = self::name_of( $url );
		if ( null !== $name && preg_match( '~^(.+)-\d+x\d+(\.\w+)$~', $name, $found ) ) {
			$original = self::named( $found[1] . $found[2] );
			if ( null !== $original && in_array( $name, $original->sizes(), true ) ) {
				return $original;
			}
		}
		return null === $name ? null : self::named( $name );
	}

	/** Changes when other bytes are written under the same name. */
	public function stamp(): string {
		return $this->name . '|' . filemtime( $this->path ) . '|' . filesize( $this->path );
	}

	/**
	 * Names of the file and all of its copies.
	 *
	 * @return string[]
	 */
	public function files(): array {
		return array_values( array_unique( array_merge( array( $this->name ), $this->sizes(), $this->copies ) ) );
	}

	/** The name below the folder of uploads that an address stands for; null where it is elsewhere. */
	public static function name_of( string $url ): ?string {
		$base = (string) preg_replace( '~^https?:~', '', trailingslashit( wp_get_upload_dir()['baseurl'] ) );
		$path = (string) preg_replace( '~^https?:|[?#].*$~', '', $url );
		return 0 === strpos( $path, $base ) ? rawurldecode( substr( $path, strlen( $base ) ) ) : null;
	}

	/**
	 * Names of the sizes that WordPress made of it, where it is in the media library.
	 *
	 * @return string[]
	 */
	private function sizes(): array {
		$names = wp_cache_get( $this->name, 'avatarmod_sizes' );
		if ( ! is_array( $names ) ) {
			$id    = attachment_url_to_postid( $this->url );
			$known = $id ? wp_get_attachment_metadata( $id ) : array();
			$names = array();
			foreach ( is_array( $known ) ? (array) ( $known['sizes'] ?? array() ) : array() as $size ) {
				$names[] = ltrim( dirname( $this->name ) . '/' . $size['file'], './' );
			}
			wp_cache_set( $this->name, $names, 'avatarmod_sizes', MINUTE_IN_SECONDS );
		}
		return $names;
	}
}
